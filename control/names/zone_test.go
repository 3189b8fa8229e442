// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

const (
	nodata   = "SOA cluster.local."
	nxdomain = "NXDOMAIN; SOA cluster.local."
)

// TestSpecification asks for each record that the specification describes, by its number there.
func TestSpecification(t *testing.T) {
	z := newWorld(t)
	for _, c := range []struct{ section, question, want string }{
		{"2.1", "KUBERNETES.Default.svc.Cluster.LOCAL. A", "KUBERNETES.Default.svc.Cluster.LOCAL. A 10.3.0.1"},
		{"2.2", "dns-version.cluster.local. TXT", `dns-version.cluster.local. TXT "1.1.0"`},

		{"2.3.1", "kubernetes.default.svc.cluster.local. A", "kubernetes.default.svc.cluster.local. A 10.3.0.1"},
		{"2.3.1", "kubernetes.default.svc.cluster.local. AAAA", "kubernetes.default.svc.cluster.local. AAAA fd00::1"},
		{"2.3.1", "single.default.svc.cluster.local. AAAA", nodata},
		{"2.3.2", "_https._tcp.kubernetes.default.svc.cluster.local. SRV", "_https._tcp.kubernetes.default.svc.cluster.local. SRV 0 100 443 kubernetes.default.svc.cluster.local.; " +
			"+kubernetes.default.svc.cluster.local. A 10.3.0.1; +kubernetes.default.svc.cluster.local. AAAA fd00::1"},
		{"2.3.2", "_dns._udp.many.default.svc.cluster.local. SRV", "_dns._udp.many.default.svc.cluster.local. SRV 0 100 53 many.default.svc.cluster.local.; +many.default.svc.cluster.local. A 10.3.0.3"},
		{"2.3.2", "_dns._tcp.many.default.svc.cluster.local. SRV", nxdomain},
		{"2.3.2", "_sctp._sctp.many.default.svc.cluster.local. SRV", "_sctp._sctp.many.default.svc.cluster.local. SRV 0 100 9 many.default.svc.cluster.local.; +many.default.svc.cluster.local. A 10.3.0.3"},
		{"2.3.2: no unnamed ports", "_._tcp.single.default.svc.cluster.local. SRV", nxdomain},
		{"2.3.2: no such port", "_http._tcp.kubernetes.default.svc.cluster.local. SRV", nxdomain},
		{"2.3.3", "1.0.3.10.in-addr.arpa. PTR", "1.0.3.10.in-addr.arpa. PTR kubernetes.default.svc.cluster.local."},
		{"2.3.3", reverse("fd00::1") + " PTR", reverse("fd00::1") + " PTR kubernetes.default.svc.cluster.local."},

		{"2.4.1", "headless.default.svc.cluster.local. A", "headless.default.svc.cluster.local. A 10.4.0.100; headless.default.svc.cluster.local. A 10.4.0.2"},
		{"2.4.1", "headless.default.svc.cluster.local. AAAA", "headless.default.svc.cluster.local. AAAA 2001:db8::1; headless.default.svc.cluster.local. AAAA 2001:db8::2"},
		{"2.4.1", "my-pet.headless.default.svc.cluster.local. A", "my-pet.headless.default.svc.cluster.local. A 10.4.0.100"},
		{"2.4.1", "my-pet.headless.default.svc.cluster.local. AAAA", "my-pet.headless.default.svc.cluster.local. AAAA 2001:db8::1"},
		{"2.4.1: without a hostname", "10-4-0-2.headless.default.svc.cluster.local. A", "10-4-0-2.headless.default.svc.cluster.local. A 10.4.0.2"},
		{"2.4.1: without a hostname", "2001-db8--2.headless.default.svc.cluster.local. AAAA", "2001-db8--2.headless.default.svc.cluster.local. AAAA 2001:db8::2"},
		{"2.4.1: not ready", "sick.headless.default.svc.cluster.local. A", nxdomain},
		{"2.4.1: no endpoints", "empty.default.svc.cluster.local. A", nxdomain},
		{"2.4.1: none ready", "unready.default.svc.cluster.local. A", nxdomain},
		{"2.4.1: none ready", "_https._tcp.unready.default.svc.cluster.local. SRV", nxdomain},
		{"2.1, ready: published all the same", "early.default.svc.cluster.local. A", "early.default.svc.cluster.local. A 10.4.0.8"},
		{"2.1, ready: published all the same", "early-0.early.default.svc.cluster.local. A", "early-0.early.default.svc.cluster.local. A 10.4.0.8"},
		{"2.4.2", "_https._tcp.headless.default.svc.cluster.local. SRV", strings.Join([]string{
			"_https._tcp.headless.default.svc.cluster.local. SRV 0 100 8443 10-4-0-2.headless.default.svc.cluster.local.",
			"_https._tcp.headless.default.svc.cluster.local. SRV 0 100 8443 2001-db8--2.headless.default.svc.cluster.local.",
			"_https._tcp.headless.default.svc.cluster.local. SRV 0 100 8443 my-pet.headless.default.svc.cluster.local.",
			"+10-4-0-2.headless.default.svc.cluster.local. A 10.4.0.2",
			"+2001-db8--2.headless.default.svc.cluster.local. AAAA 2001:db8::2",
			"+my-pet.headless.default.svc.cluster.local. A 10.4.0.100",
			"+my-pet.headless.default.svc.cluster.local. AAAA 2001:db8::1",
		}, "; ")},
		{"2.4.3", "100.0.4.10.in-addr.arpa. PTR", "100.0.4.10.in-addr.arpa. PTR my-pet.headless.default.svc.cluster.local."},
		{"2.4.3", reverse("2001:db8::1") + " PTR", reverse("2001:db8::1") + " PTR my-pet.headless.default.svc.cluster.local."},
		{"2.4.3: not ready", "9.0.4.10.in-addr.arpa. PTR", "pass on"},
		{"2.4.3: not headless", "1.0.16.172.in-addr.arpa. PTR", "pass on"},

		{"2.5", "foo.default.svc.cluster.local. A", "foo.default.svc.cluster.local. CNAME www.example.com.; pass on www.example.com."},
		{"2.5", "foo.default.svc.cluster.local. AAAA", "foo.default.svc.cluster.local. CNAME www.example.com.; pass on www.example.com."},
		{"2.5", "foo.default.svc.cluster.local. CNAME", "foo.default.svc.cluster.local. CNAME www.example.com."},
		{"2.5", "below.foo.default.svc.cluster.local. A", nxdomain},
	} {
		if got := ask(z, c.question); got != c.want {
			t.Errorf("%s: %s:\n got %s\nwant %s", c.section, c.question, got, c.want)
		}
	}
}

func reverse(addr string) string {
	name, err := dns.ReverseAddr(addr)
	if err != nil {
		panic(err)
	}
	return name
}

// TestBeyondSpecification: what the specification leaves open.
func TestBeyondSpecification(t *testing.T) {
	z := newWorld(t)
	const kubernetes = "kubernetes.default.svc.cluster.local."
	for _, c := range []struct{ question, want string }{
		// Without search domains.
		{"kubernetes. A", "kubernetes. CNAME " + kubernetes + "; " + kubernetes + " A 10.3.0.1"},
		{"Kubernetes.Default. AAAA", "Kubernetes.Default. CNAME " + kubernetes + "; " + kubernetes + " AAAA fd00::1"},
		{"kubernetes.default.svc. A", "kubernetes.default.svc. CNAME " + kubernetes + "; " + kubernetes + " A 10.3.0.1"},
		{"kubernetes. CNAME", "kubernetes. CNAME " + kubernetes},
		{"kubernetes. MX", "kubernetes. CNAME " + kubernetes + "; " + nodata},
		{"single. AAAA", "single. CNAME single.default.svc.cluster.local.; " + nodata},
		{"foo. A", "foo. CNAME foo.default.svc.cluster.local.; foo.default.svc.cluster.local. CNAME www.example.com.; pass on www.example.com."},
		{"my-pet.headless. A", "my-pet.headless. CNAME my-pet.headless.default.svc.cluster.local.; my-pet.headless.default.svc.cluster.local. A 10.4.0.100"},
		{"github.io. A", "github.io. CNAME github.io.svc.cluster.local.; github.io.svc.cluster.local. A 10.3.0.4"},
		{"www.github.io. A", "pass on"},
		{"nosuch. A", "pass on"},
		{"nosuch.default. A", "pass on"},
		{"io. NS", "pass on"}, // a namespace is no name
		{"svc. A", "pass on"},
		{"_tcp.kubernetes. SRV", "pass on"},
		{"dns-version. TXT", "pass on"},
		{"ns.dns. A", "pass on"},
		{". NS", "pass on"},
		{"www.example.com. A", "pass on"},
		{"local. A", "pass on"},
		{"notcluster.local. A", "pass on"},

		// Names that are there because of names below them, and those that are not.
		{"cluster.local. A", nodata},
		{"svc.cluster.local. A", nodata},
		{"default.svc.cluster.local. A", nodata},
		{"_tcp.kubernetes.default.svc.cluster.local. SRV", nodata},
		{"_udp.kubernetes.default.svc.cluster.local. SRV", nxdomain},
		{"nosuch.svc.cluster.local. A", nxdomain},
		{"nosuch.default.svc.cluster.local. A", nxdomain},
		{"pod.cluster.local. A", nxdomain},
		{"a.b.c.kubernetes.default.svc.cluster.local. A", nxdomain},
		{"www.example.com.default.svc.cluster.local. A", nxdomain},
		{"api.kubernetes.default.svc.cluster.local. A", nxdomain}, // an endpoint of a Service with a cluster IP

		{"cluster.local. SOA", "cluster.local. SOA ns.dns.cluster.local. hostmaster.cluster.local. 19 7200 1800 86400 5"},
		{"cluster.local. NS", "cluster.local. NS ns.dns.cluster.local."},
		{"ns.dns.cluster.local. A", "ns.dns.cluster.local. A 10.3.0.10"},
		{"ns.dns.cluster.local. AAAA", "ns.dns.cluster.local. AAAA fd00::a"},
		{"dns.cluster.local. A", nodata},
		{"x.dns.cluster.local. A", nxdomain},
		{"kubernetes.default.svc.cluster.local. ANY", `kubernetes.default.svc.cluster.local. HINFO "RFC8482" ""`},

		// A Service's own name has all its ports, named or not.
		{"single.default.svc.cluster.local. SRV", "single.default.svc.cluster.local. SRV 0 100 80 single.default.svc.cluster.local.; +single.default.svc.cluster.local. A 10.3.0.2"},
		{"my-pet.headless.default.svc.cluster.local. SRV", "my-pet.headless.default.svc.cluster.local. SRV 0 100 7 my-pet.headless.default.svc.cluster.local.; " +
			"my-pet.headless.default.svc.cluster.local. SRV 0 100 8443 my-pet.headless.default.svc.cluster.local.; " +
			"+my-pet.headless.default.svc.cluster.local. A 10.4.0.100; +my-pet.headless.default.svc.cluster.local. AAAA 2001:db8::1"},

		// ExternalName within the cluster.
		{"inner.default.svc.cluster.local. A", "inner.default.svc.cluster.local. CNAME " + kubernetes + "; " + kubernetes + " A 10.3.0.1"},
		{"lost.default.svc.cluster.local. A", "NXDOMAIN; lost.default.svc.cluster.local. CNAME nosuch.default.svc.cluster.local.; " + nodata},

		// Addresses of the ranges that no Service has, and others.
		{"99.0.3.10.in-addr.arpa. PTR", "NXDOMAIN; SOA 3.10.in-addr.arpa."},
		{"1.0.3.10.in-addr.arpa. A", "SOA 3.10.in-addr.arpa."},
		{reverse("fd00::99") + " PTR", "NXDOMAIN; SOA " + reverse("fd00::")[8:]},
		{"9.9.9.9.in-addr.arpa. PTR", "pass on"},
		{"3.10.in-addr.arpa. PTR", "pass on"},
		{"x.0.3.10.in-addr.arpa. PTR", "pass on"},
		{"1.0.ip6.arpa. PTR", "pass on"},
	} {
		if got := ask(z, c.question); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.question, got, c.want)
		}
	}
	if got := ask(z, "round.default.svc.cluster.local. A"); !strings.HasPrefix(got, "SERVFAIL; ") {
		t.Errorf("Services that lead to each other: %s", got)
	}
}

// TestChanges: names follow their objects, in whatever order these come and go.
func TestChanges(t *testing.T) {
	z := NewZone("cluster.local.", nil)
	want := func(question, want string) {
		t.Helper()
		if got := ask(z, question); got != want {
			t.Errorf("%s: got %s, want %s", question, got, want)
		}
	}
	old := service1(t, "a/web", `clusterIP: 10.3.0.1, clusterIPs: [10.3.0.1]`)
	moved := service1(t, "a/web", `clusterIP: 10.3.0.2, clusterIPs: [10.3.0.2]`)
	z.OnService(nil, old)
	want("web.a.svc.cluster.local. A", "web.a.svc.cluster.local. A 10.3.0.1")
	z.OnService(old, moved)
	want("web.a.svc.cluster.local. A", "web.a.svc.cluster.local. A 10.3.0.2")
	want("1.0.3.10.in-addr.arpa. PTR", "pass on")
	want("2.0.3.10.in-addr.arpa. PTR", "2.0.3.10.in-addr.arpa. PTR web.a.svc.cluster.local.")
	z.OnService(moved, nil)
	want("web.a.svc.cluster.local. A", nxdomain)
	want("a.svc.cluster.local. A", nxdomain)

	const port = `{name: p, protocol: TCP, port: 1}`
	first := slice1(t, "s", "a/db", port, `{addresses: [10.4.0.1]}`)
	then := slice1(t, "s", "a/db", port, `{addresses: [10.4.0.1], conditions: {ready: false}}, {addresses: [10.4.0.2]}`)
	z.OnEndpointSlice(nil, first) // before its Service
	db := service1(t, "a/db", `clusterIP: None`)
	z.OnService(nil, db)
	want("db.a.svc.cluster.local. A", "db.a.svc.cluster.local. A 10.4.0.1")
	z.OnEndpointSlice(first, then)
	want("db.a.svc.cluster.local. A", "db.a.svc.cluster.local. A 10.4.0.2")
	tolerant := db.DeepCopy()
	tolerant.Annotations = map[string]string{tolerateUnready: "true"}
	z.OnService(db, tolerant)
	want("db.a.svc.cluster.local. A", "db.a.svc.cluster.local. A 10.4.0.1; db.a.svc.cluster.local. A 10.4.0.2")
	z.OnEndpointSlice(then, nil)
	want("db.a.svc.cluster.local. A", nxdomain)
	z.OnService(tolerant, nil)
	if len(z.services)+len(z.slices)+len(z.namespaces)+len(z.holders) != 0 {
		t.Errorf("something is left: %v %v %v %v", z.services, z.slices, z.namespaces, z.holders)
	}
}

// TestRotation: each address of several is the first now and then, and none is lost.
func TestRotation(t *testing.T) {
	z := NewZone("cluster.local", nil)
	z.OnService(nil, service1(t, "a/db", `clusterIP: None`))
	z.OnEndpointSlice(nil, slice1(t, "s", "a/db", "", `{addresses: [10.4.0.1]}, {addresses: [10.4.0.2]}, {addresses: [10.4.0.3]}`))
	first := map[string]bool{}
	for range 200 { // one is missed by chance once in 10^35
		a := z.Answer(dns.Question{Name: "db.a.svc.cluster.local.", Qtype: dns.TypeA, Qclass: dns.ClassINET})
		if len(a.Answer) != 3 {
			t.Fatalf("%d answers", len(a.Answer))
		}
		first[a.Answer[0].(*dns.A).A.String()] = true
	}
	if len(first) != 3 {
		t.Errorf("first are only %v", first)
	}
}

// TestOtherDomain: the domain of the cluster is a setting.
func TestOtherDomain(t *testing.T) {
	z := NewZone("Lab.Example", []netip.Addr{netip.MustParseAddr("10.3.0.10")})
	z.OnService(nil, service1(t, "a/web", `clusterIP: 10.3.0.1, clusterIPs: [10.3.0.1]`))
	for question, want := range map[string]string{
		"web.a.svc.lab.example. A":   "web.a.svc.lab.example. A 10.3.0.1",
		"web.a. A":                   "web.a. CNAME web.a.svc.lab.example.; web.a.svc.lab.example. A 10.3.0.1",
		"web.a.svc.cluster.local. A": "pass on",
		"nosuch.lab.example. A":      "NXDOMAIN; SOA lab.example.",
	} {
		if got := ask(z, question); got != want {
			t.Errorf("%s: got %s, want %s", question, got, want)
		}
	}
}

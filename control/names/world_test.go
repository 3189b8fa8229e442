// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"sigs.k8s.io/yaml"
)

// object reads an object from YAML.
func object[T any](t testing.TB, text string) *T {
	t.Helper()
	o := new(T)
	if err := yaml.UnmarshalStrict([]byte(text), o); err != nil {
		t.Fatalf("%v in %s", err, text)
	}
	return o
}

func service1(t testing.TB, name, spec string) *v1.Service {
	t.Helper()
	namespace, name, _ := strings.Cut(name, "/")
	return object[v1.Service](t, "metadata: {namespace: "+namespace+", name: "+name+"}\nspec: {"+spec+"}")
}

func slice1(t testing.TB, name, service, ports, endpoints string) *discovery.EndpointSlice {
	t.Helper()
	namespace, service, _ := strings.Cut(service, "/")
	return object[discovery.EndpointSlice](t, "metadata: {namespace: "+namespace+", name: "+name+", labels: {kubernetes.io/service-name: "+service+"}}\n"+
		"ports: ["+ports+"]\nendpoints: ["+endpoints+"]")
}

// newWorld makes a zone with a Service of each kind.
func newWorld(t testing.TB) *Zone {
	t.Helper()
	z := NewZone("cluster.local", []netip.Addr{netip.MustParseAddr("10.3.0.10"), netip.MustParseAddr("fd00::a")})
	z.OnServiceCIDRs([]netip.Prefix{netip.MustParsePrefix("10.3.0.0/16"), netip.MustParsePrefix("fd00::/112")})
	for _, s := range []*v1.Service{
		service1(t, "default/kubernetes", `clusterIP: 10.3.0.1, clusterIPs: [10.3.0.1, "fd00::1"], ports: [{name: https, protocol: TCP, port: 443}]`),
		service1(t, "default/single", `clusterIP: 10.3.0.2, clusterIPs: [10.3.0.2], ports: [{protocol: TCP, port: 80}]`),
		service1(t, "default/many", `clusterIP: 10.3.0.3, clusterIPs: [10.3.0.3], ports: [{name: dns, protocol: UDP, port: 53}, {name: dns-tcp, protocol: TCP, port: 53}, {name: sctp, protocol: SCTP, port: 9}]`),
		service1(t, "default/headless", `clusterIP: None, clusterIPs: [None], ports: [{name: https, protocol: TCP, port: 443}, {protocol: TCP, port: 7}]`),
		service1(t, "default/empty", `clusterIP: None, ports: [{name: https, protocol: TCP, port: 443}]`),
		service1(t, "default/unready", `clusterIP: None, ports: [{name: https, protocol: TCP, port: 443}]`),
		service1(t, "default/early", `clusterIP: None, publishNotReadyAddresses: true, ports: [{name: https, protocol: TCP, port: 443}]`),
		service1(t, "default/foo", `type: ExternalName, externalName: WWW.example.com`),
		service1(t, "default/inner", `type: ExternalName, externalName: kubernetes.default.svc.cluster.local`),
		service1(t, "default/lost", `type: ExternalName, externalName: nosuch.default.svc.cluster.local`),
		service1(t, "default/round", `type: ExternalName, externalName: about.default.svc.cluster.local`),
		service1(t, "default/about", `type: ExternalName, externalName: round.default.svc.cluster.local`),
		service1(t, "io/github", `clusterIP: 10.3.0.4, clusterIPs: [10.3.0.4], ports: [{protocol: TCP, port: 80}]`),
	} {
		z.OnService(nil, s)
	}
	const ports = `{name: https, protocol: TCP, port: 8443}, {name: "", protocol: TCP, port: 7}`
	const unready = `conditions: {ready: false}`
	for _, s := range []*discovery.EndpointSlice{
		slice1(t, "a", "default/headless", ports, `{addresses: [10.4.0.100], hostname: my-pet}, {addresses: [10.4.0.2]}, {addresses: [10.4.0.9], hostname: sick, `+unready+`}`),
		slice1(t, "b", "default/headless", ports, `{addresses: ["2001:db8::1"], hostname: my-pet}, {addresses: ["2001:db8::2"], conditions: {ready: true}}`),
		slice1(t, "u", "default/unready", ports, `{addresses: [10.4.0.7], hostname: lone, `+unready+`}`),
		slice1(t, "e", "default/early", ports, `{addresses: [10.4.0.8], hostname: early-0, `+unready+`}`),
		slice1(t, "k", "default/kubernetes", ports, `{addresses: [172.16.0.1], hostname: api}`),
	} {
		z.OnEndpointSlice(nil, s)
	}
	return z
}

// ask describes what the zone says to "NAME TYPE": records as "owner TYPE data", an SOA record by its owner, and "pass on"
// with the name if others are to be asked.
func ask(z *Zone, question string) string {
	name, kind, _ := strings.Cut(question, " ")
	a := z.Answer(dns.Question{Name: name, Qtype: dns.StringToType[kind], Qclass: dns.ClassINET})
	if !a.Ours {
		return "pass on"
	}
	var lines []string
	if a.Rcode != dns.RcodeSuccess {
		lines = append(lines, dns.RcodeToString[a.Rcode])
	}
	lines = append(lines, describe(a.Answer)...)
	for _, rr := range a.Ns {
		lines = append(lines, "SOA "+rr.Header().Name)
	}
	for _, line := range describe(a.Extra) {
		lines = append(lines, "+"+line)
	}
	if a.Next != "" {
		lines = append(lines, "pass on "+a.Next)
	}
	return strings.Join(lines, "; ")
}

func describe(records []dns.RR) (lines []string) {
	for _, rr := range records {
		data := strings.TrimPrefix(rr.String(), rr.Header().String())
		lines = append(lines, rr.Header().Name+" "+dns.TypeToString[rr.Header().Rrtype]+" "+data)
	}
	slices.SortStableFunc(lines, func(a, b string) int {
		if strings.Contains(a+b, "CNAME") {
			return 0 // in the order in which they are followed
		}
		return strings.Compare(a, b)
	})
	return lines
}

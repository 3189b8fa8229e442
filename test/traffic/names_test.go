// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	query "github.com/miekg/dns"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

// Where these tests have names answered.
var namesAt = []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00:10:96::a")}

const namesFlag = "--dns=10.96.0.10,fd00:10:96::a"

// named is a network in which names are answered on each node, and other names by a machine of its own.
type named struct {
	*setup
	*clients
	upstream  *upstream
	web, peer *topo.Pod
	files     string // a directory for files of pods
}

// upstream is a resolver outside of the cluster.
type upstream struct {
	host  *topo.Host
	mu    sync.Mutex
	asked []string
}

const peersYAML = `apiVersion: v1
kind: Service
metadata: {name: peers, namespace: data}
spec:
  clusterIP: None
  ipFamilyPolicy: RequireDualStack
  selector: {app: peers}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: peer-0, namespace: data, labels: {app: peers}}
spec:
  nodeName: node-2
  hostname: peer-0
  subdomain: peers
  containers: [{name: server, image: example.invalid/server}]
status:
  podIP: %[1]s
  podIPs: [{ip: %[1]s}, {ip: "%[2]s"}]
---
apiVersion: v1
kind: Service
metadata: {name: outside}
spec: {type: ExternalName, externalName: www.example.org}
`

func newNamed(t *testing.T, m mode) *named {
	t.Helper()
	s := newSetup(t, topo.Routed, m)
	n := &named{setup: s, files: t.TempDir()}
	check(t, os.Chmod(n.files, 0o755))
	s.addService(t, service{name: "web", number: 1})
	n.web = s.addPod(t, 1, "web", "app: web")
	var err error
	n.peer, err = s.Nodes[1].AddPod("peer-0", topo.PodOptions{})
	check(t, err)
	check(t, s.manifests.Write("peers.yaml", fmt.Sprintf(peersYAML, n.peer.IP4, n.peer.IP6)))
	n.clients = s.addClients(t)
	n.upstream = s.addUpstream(t)
	// The first of the resolvers refuses: nothing listens there.
	conf := n.file(t, "node.conf", fmt.Sprintf("nameserver %s\nnameserver %s\n", s.Laptop.IP4, n.upstream.host.IP6))
	s.startAgents(t, namesFlag, "--dns-resolv-conf="+conf)
	s.awaitServices(t, portsOfService+4)
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("10.96.0.0/16"), s.Nodes[0].IP4))
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("fd00:10:96::/112"), s.Nodes[0].IP6))
	return n
}

// addUpstream starts a resolver that knows www.example.org, and for long.example.org more than a datagram holds.
func (s *setup) addUpstream(t *testing.T) *upstream {
	t.Helper()
	host, err := s.AddMachine("resolver")
	check(t, err)
	u := &upstream{host: host}
	for _, addr := range []netip.Addr{host.IP4, host.IP6} {
		at := netip.AddrPortFrom(addr, 53).String()
		var packets net.PacketConn
		var stream net.Listener
		check(t, host.Do(func() (err error) {
			if packets, err = net.ListenPacket("udp", at); err != nil {
				return err
			}
			stream, err = net.Listen("tcp", at)
			return err
		}))
		for _, server := range []*query.Server{{PacketConn: packets}, {Listener: stream}} {
			server.Handler = query.HandlerFunc(u.answer)
			started := make(chan struct{})
			server.NotifyStartedFunc = func() { close(started) }
			go func() { _ = server.ActivateAndServe() }()
			<-started
			t.Cleanup(func() { check(t, server.Shutdown()) })
		}
	}
	return u
}

func (u *upstream) answer(w query.ResponseWriter, m *query.Msg) {
	q := m.Question[0]
	u.mu.Lock()
	u.asked = append(u.asked, strings.ToLower(q.Name))
	u.mu.Unlock()
	reply := new(query.Msg).SetReply(m)
	add := func(text string) {
		rr, err := query.NewRR(text)
		if err == nil && rr.Header().Rrtype == q.Qtype {
			reply.Answer = append(reply.Answer, rr)
		}
	}
	switch strings.ToLower(q.Name) {
	case "www.example.org.":
		add("www.example.org. 60 A 192.0.2.80")
		add("www.example.org. 60 AAAA 2001:db8:2::80")
	case "long.example.org.":
		for i := range 100 {
			add(fmt.Sprintf("long.example.org. 60 A 192.0.2.%d", i))
		}
	default:
		reply.Rcode = query.RcodeNameError
	}
	if _, tcp := w.RemoteAddr().(*net.TCPAddr); !tcp {
		reply.Truncate(query.MinMsgSize)
	}
	_ = w.WriteMsg(reply)
}

func (u *upstream) wasAsked(name string) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return slices.Contains(u.asked, name)
}

func (n *named) file(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(n.files, name)
	check(t, os.WriteFile(path, []byte(text), 0o644))
	return path
}

const searches = "search default.svc.cluster.local svc.cluster.local cluster.local\noptions ndots:5 "

// getent has the C library of a host look names up, with a resolv.conf, and returns the addresses of each.
func (n *named) getent(t *testing.T, host *topo.Host, conf, database string, names ...string) []string {
	t.Helper()
	args := append([]string{"-m", "sh", "-c",
		`mount --bind "$0" /etc/resolv.conf || exit; database=$1; shift; for name; do echo = $name; getent $database $name; done; exit 0`,
		n.file(t, "pod.conf", conf), database}, names...)
	out, err := host.Command("unshare", args...).CombinedOutput()
	if err != nil {
		t.Fatalf("getent %s: %v: %s", database, err, out)
	}
	var all []string
	for _, part := range strings.Split(string(out), "= ")[1:] {
		var found []string
		for _, line := range strings.Split(part, "\n")[1:] {
			if fields := strings.Fields(line); len(fields) > 1 && !slices.Contains(found, fields[0]) {
				found = append(found, fields[0])
			}
		}
		slices.Sort(found)
		all = append(all, strings.Join(found, " "))
	}
	return all
}

// TestNames: processes of pods, of a node and of a host that routes to it find Services by their names, by UDP and TCP,
// over IPv4 and IPv6, with the C library's own resolver; what is not the cluster's comes from the node's resolvers.
func TestNames(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			n := newNamed(t, m)
			n.lookUp(t)
			n.dig(t)
			n.reach(t)
			n.restart(t)
			n.otherWays(t)
			n.comeAndGo(t)
			n.precedence(t)
		})
	}
}

func (n *named) hosts() map[string]*topo.Host {
	return map[string]*topo.Host{"pod": n.insidePod.Host, "pod without socket hooks": n.outsidePod.Host, "node": n.Nodes[0].Host, "laptop": n.Laptop}
}

// lookUp has every kind of host look up every kind of name.
func (n *named) lookUp(t *testing.T) {
	t.Helper()
	all := []struct{ name, v4, v6 string }{
		{"web", "10.96.0.1", "fd00:10:96::1"},
		{"web.default", "10.96.0.1", "fd00:10:96::1"},
		{"WEB.default.svc.cluster.LOCAL", "10.96.0.1", "fd00:10:96::1"},
		{"peers.data", n.peer.IP4.String(), n.peer.IP6.String()},
		{"peer-0.peers.data.svc.cluster.local", n.peer.IP4.String(), n.peer.IP6.String()},
		{"outside", "192.0.2.80", "2001:db8:2::80"},
		{"www.example.org", "192.0.2.80", "2001:db8:2::80"},
		{"nosuch", "", ""},
		{"nosuch.default.svc.cluster.local", "", ""},
	}
	var names, want4, want6 []string
	for _, c := range all {
		names, want4, want6 = append(names, c.name), append(want4, c.v4), append(want6, c.v6)
	}
	for who, host := range n.hosts() {
		for _, server := range namesAt {
			for _, options := range []string{searches, searches + "use-vc", "options ndots:1"} {
				conf := fmt.Sprintf("nameserver %s\n%s\n", server, options)
				for database, want := range map[string][]string{"ahostsv4": want4, "ahostsv6": want6} {
					if got := n.getent(t, host, conf, database, names...); !slices.Equal(got, want) {
						t.Errorf("%s, %q: getent %s %q:\n%q, want\n%q", who, conf, database, names, got, want)
					}
				}
			}
		}
	}
	for _, name := range []string{"nosuch.default.svc.cluster.local.", "www.example.org.default.svc.cluster.local."} {
		if n.upstream.wasAsked(name) {
			t.Errorf("%s was passed on", name)
		}
	}
	conf := fmt.Sprintf("nameserver %s\n", namesAt[0])
	if got := n.getent(t, n.insidePod.Host, conf, "hosts", "web.default"); !slices.Equal(got, []string{"fd00:10:96::1"}) {
		t.Errorf("getent hosts web.default: %q", got) // the C library prefers IPv6
	}
}

// dig asks with another resolver than the C library's, for what that never asks.
func (n *named) dig(t *testing.T) {
	t.Helper()
	for _, c := range []struct{ args, want string }{
		{"web.default.svc.cluster.local SRV", "0 100 53 web.default.svc.cluster.local. 0 100 7 web.default.svc.cluster.local. 0 100 80 web.default.svc.cluster.local."},
		{"_http._tcp.web.default.svc.cluster.local SRV", "0 100 80 web.default.svc.cluster.local."},
		{"_http._tcp.peers.data.svc.cluster.local SRV +tcp", "0 100 8080 peer-0.peers.data.svc.cluster.local."},
		{"dns-version.cluster.local TXT", `"1.1.0"`},
		{"-x 10.96.0.1", "web.default.svc.cluster.local."},
		{"-x fd00:10:96::1", "web.default.svc.cluster.local."},
		{"-x " + n.peer.IP6.String(), "peer-0.peers.data.svc.cluster.local."},
		{"-x 10.96.7.7", ""},
		{"kube-dns.kube-system.svc.cluster.local A", "10.96.0.10"},
		{"cluster.local NS", "ns.dns.cluster.local."},
	} {
		for _, server := range namesAt {
			out, err := n.insidePod.Command("dig", append(strings.Fields(c.args), "@"+server.String(), "+short", "+tries=1", "+time=5")...).CombinedOutput()
			lines := strings.Split(strings.TrimSpace(string(out)), "\n")
			slices.Sort(lines)
			if got := strings.Join(lines, " "); err != nil || got != c.want {
				t.Errorf("dig %s @%s: %q, %v; want %q", c.args, server, out, err, c.want)
			}
		}
	}
	out, err := n.outsidePod.Command("dig", "long.example.org", "@10.96.0.10", "+short").CombinedOutput()
	if lines := strings.Count(string(out), "\n"); err != nil || lines != 100 {
		t.Errorf("an answer that needs TCP, from here to the resolver and from the client to here: %d lines, %v", lines, err)
	}
}

// reach shows that it is a Service like others.
func (n *named) reach(t *testing.T) {
	t.Helper()
	for _, a := range n.agents {
		out, err := a.CLI("service", "list")
		check(t, err)
		if !strings.Contains(out, "kube-dns") || !strings.Contains(out, "10.96.0.10") {
			t.Errorf("waggle service list on %s:\n%s", a.Node.Name, out)
		}
	}
	await.Until(t, func() (string, bool) { // the status is written once a second
		out, err := n.agents[0].CLI("status")
		check(t, err)
		return out, strings.Contains(out, "of cluster.local, answered at 10.96.0.10, fd00:10:96::a; ") && strings.Contains(out, "NXDOMAIN")
	})
	for _, problem := range n.status(t).Warnings {
		if strings.Contains(problem, "names of services") {
			t.Errorf("a problem: %s", problem)
		}
	}
}

func (n *named) status(t *testing.T) *status.Status {
	t.Helper()
	st, err := status.Read(n.agents[0].RunDir)
	check(t, err)
	return st
}

// restart: what clients have of a dead agent's is nothing, but the frontends stay, and its successor answers at once.
func (n *named) restart(t *testing.T) {
	t.Helper()
	before := contents(t, n.agents[0]).Endpoints("kube-dns")
	if len(before) != 4 {
		t.Fatalf("%d frontends: %v", len(before), before)
	}
	conf := n.file(t, "node.conf", fmt.Sprintf("nameserver %s\n", n.upstream.host.IP4))
	n.agents[0].Kill()
	check(t, n.agents[0].Start(namesFlag, "--dns-resolv-conf="+conf))
	if after := contents(t, n.agents[0]).Endpoints("kube-dns"); fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("frontends %v before, %v after", before, after)
	}
	n.finds(t, "web", "10.96.0.1")
	n.finds(t, "www.example.org", "192.0.2.80")
}

// otherWays: names are answered, too, where all clients are translated, and where the sockets of pods are left alone.
func (n *named) otherWays(t *testing.T) {
	t.Helper()
	check(t, n.agents[0].Stop())
	check(t, n.agents[0].Start(namesFlag, "--masquerade-all", "--socket-lb=host"))
	for who, host := range n.hosts() {
		for _, server := range namesAt {
			for _, by := range []string{"+notcp", "+tcp"} {
				out, err := host.Command("dig", "web.default", "A", by, "@"+server.String(), "+short", "+tries=1", "+time=5").CombinedOutput()
				if err != nil || string(out) != "web.default.svc.cluster.local.\n10.96.0.1\n" {
					t.Errorf("masqueraded: %s, dig %s @%s: %q %v", who, by, server, out, err)
				}
			}
		}
	}
}

// finds waits until a pod's C library finds a name, or does not find it ("").
func (n *named) finds(t *testing.T, name, want string) {
	t.Helper()
	await.Until(t, func() (string, bool) {
		got := n.getent(t, n.insidePod.Host, "nameserver 10.96.0.10\n"+searches+"\n", "ahostsv4", name)[0]
		return fmt.Sprintf("%s is %q, want %q", name, got, want), got == want
	})
}

// comeAndGo: a name is there as long as its Service.
func (n *named) comeAndGo(t *testing.T) {
	t.Helper()
	n.finds(t, "late", "")
	n.addService(t, service{name: "late", number: 2})
	n.finds(t, "late", "10.96.0.2")
	check(t, n.manifests.Remove("late.yaml"))
	n.finds(t, "late", "")
}

// precedence: a Service of the manifests that has the address gets what is for it, and gives it back.
func (n *named) precedence(t *testing.T) {
	t.Helper()
	const message = "Service default/own of the manifests has 10.96.0.10 and takes precedence: waggle does not answer there"
	own := service{name: "own", app: "web", number: 10}
	n.addService(t, own)
	check(t, n.agents[0].Await("the problem", func(st *status.Status) bool {
		return slices.ContainsFunc(st.Warnings, func(w string) bool { return strings.Contains(w, message) })
	}))
	n.awaitPods(t, own, n.web)
	if reply := n.clients.inside.UDPConnected(topo.Request{To: own.clusterIP(dns, false)}); !reply.OK() || reply.Pod != "web" {
		t.Errorf("10.96.0.10 of another Service: %s", reply)
	}
	// The address of IPv6 is still ours.
	out, err := n.insidePod.Command("dig", "web.default.svc.cluster.local", "@fd00:10:96::a", "+short").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "10.96.0.1" {
		t.Errorf("at the other address: %s %v", out, err)
	}
	check(t, n.manifests.Remove("own.yaml"))
	n.finds(t, "web", "10.96.0.1")
	check(t, n.Nodes[0].AddAddr("lo", topo.Single(namesAt[0]))) // as NodeLocal DNSCache does
	check(t, n.agents[0].Await("the problem", func(st *status.Status) bool {
		return strings.Contains(fmt.Sprint(st.Warnings), "10.96.0.10 is an address of a device of this node")
	}))
	check(t, n.Nodes[0].DelAddr("lo", topo.Single(namesAt[0])))
	n.finds(t, "web", "10.96.0.1")
	check(t, n.agents[0].Await("no problem", func(st *status.Status) bool { return !strings.Contains(fmt.Sprint(st.Warnings), "--dns") }))
}

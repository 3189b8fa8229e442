// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// twoServices have a pod each: the first on node-1, the second on node-2. The agents are started
// with more flags, if any are given.
func twoServices(t *testing.T, m mode, flags ...string) (*setup, *clients, []service) {
	t.Helper()
	s := newSetup(t, topo.Routed, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	c := s.addClients(t)
	s.startAgents(t, flags...)
	s.awaitServices(t, len(services)*portsOfService)
	return s, c, services
}

// exchanges does TCP and UDP with a service by all kinds of sockets.
func exchanges(c *topo.Client, tcp, udp topo.Request) map[string]topo.Reply {
	udp.Count = 3
	return map[string]topo.Reply{
		"tcp":             c.Get(tcp),
		"udp-connected":   c.UDPConnected(udp),
		"udp-unconnected": c.UDPUnconnected(udp),
	}
}

// checkAnswers expects the pod's answers, from the address that was asked.
func checkAnswers(t *testing.T, what string, pod string, replies map[string]topo.Reply, tcp, udp netip.AddrPort) {
	t.Helper()
	for how, r := range replies {
		asked := udp
		if how == "tcp" {
			asked = tcp
		}
		switch {
		case !r.OK() || r.Pod != pod:
			t.Errorf("%s, %s to %s: %s, want %s", what, how, asked, r, pod)
		case r.Peer.IsValid() && r.Peer != asked:
			t.Errorf("%s, %s: getpeername says %s, want %s", what, how, r.Peer, asked)
		case r.Source.IsValid() && r.Source != asked:
			t.Errorf("%s, %s: recvfrom says %s, want %s", what, how, r.Source, asked)
		}
	}
}

// TestNodeProcess: a process on the node reaches services by every address, loopback included,
// which kube-proxy's nftables mode can't do. A pod's own loopback is not the node's.
func TestNodeProcess(t *testing.T) {
	s, c, services := twoServices(t, modes[0])
	process := client(t, s.Nodes[0].Host)
	addrs := []string{"127.0.0.1", "::1", s.Nodes[0].IP4.String(), s.Nodes[0].IP6.String()}
	for _, svc := range services {
		for _, v6 := range bothFamilies {
			tcp, udp := svc.clusterIP(http, v6), svc.clusterIP(dns, v6)
			replies := exchanges(process, topo.Request{To: tcp}, topo.Request{To: udp})
			checkAnswers(t, "node process, cluster IP", svc.name, replies, tcp, udp)
		}
		for _, addr := range addrs {
			tcp, udp := svc.nodePort(netip.MustParseAddr(addr), http), svc.nodePort(netip.MustParseAddr(addr), dns)
			replies := exchanges(process, topo.Request{To: tcp}, topo.Request{To: udp})
			checkAnswers(t, "node process, node port", svc.name, replies, tcp, udp)
		}
		for _, addr := range addrs[:2] {
			tcp := topo.Request{To: svc.nodePort(netip.MustParseAddr(addr), http)}
			if r := c.inside.Get(tcp); r.Errno != "ECONNREFUSED" {
				t.Errorf("from a pod to its own %s: %s, want ECONNREFUSED", tcp.To, r)
			}
		}
	}
}

// TestMapped: many programs use IPv6 sockets for both families.
func TestMapped(t *testing.T) {
	s, c, services := twoServices(t, modes[0])
	ways := append(s.ways(c), way{"node-process", client(t, s.Nodes[0].Host), func(svc service, p port, _ bool) netip.AddrPort {
		return svc.nodePort(netip.MustParseAddr("127.0.0.1"), p)
	}})
	for _, svc := range services {
		for _, w := range ways {
			tcp, udp := w.to(svc, http, false), w.to(svc, dns, false)
			replies := exchanges(w.client, topo.Request{To: tcp, Mapped: true}, topo.Request{To: udp, Mapped: true})
			checkAnswers(t, w.name, svc.name, replies, tcp, udp)
		}
	}
}

// TestHairpin, of contract 10: a pod that is its own service's only endpoint reaches itself.
//
// Contract: 10.
func TestHairpin(t *testing.T) {
	for _, m := range modes[1:] { // XDP never sees these packets
		t.Run(m.name, func(t *testing.T) { hairpin(t, m) })
	}
}

func hairpin(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	services := []service{{name: "by-socket", number: 1}, {name: "by-packet", number: 2}}
	var pods []*topo.Pod
	for _, svc := range services {
		s.addService(t, svc)
		pod, err := s.Nodes[0].AddPod(svc.name, topo.PodOptions{OutsideCgroup: svc.name == "by-packet"})
		check(t, err)
		_, err = pod.Serve(podPorts)
		check(t, err)
		check(t, s.manifests.WritePod(pod, "app: "+svc.name))
		pods = append(pods, pod)
	}
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	for i, pod := range pods {
		c := client(t, pod.Host)
		for _, v6 := range bothFamilies {
			node := addrOf(s.Nodes[0].Host, v6)
			hairpinTo(t, c, pod, services[i].clusterIP(http, v6), services[i].clusterIP(dns, v6))
			hairpinTo(t, c, pod, services[i].nodePort(node, http), services[i].nodePort(node, dns))
			hairpinTo(t, c, pod, services[i].lb(http, v6), services[i].lb(dns, v6))
		}
	}
}

func hairpinTo(t *testing.T, c *topo.Client, pod *topo.Pod, tcp, udp netip.AddrPort) {
	t.Helper()
	replies := exchanges(c, topo.Request{To: tcp}, topo.Request{To: udp, Size: 1200})
	checkAnswers(t, pod.Name+" to itself", pod.Name, replies, tcp, udp)
	if r := c.Post(topo.Request{To: tcp, Size: bulk}); !r.OK() {
		t.Errorf("%s to itself, %d bytes to %s: %s", pod.Name, bulk, tcp, r)
	}
}

// TestSamePortToTwoServices: a client uses one source port for two services with the same pod
// behind them. The pod could not distinguish the two if the port were not translated for one of
// them.
func TestSamePortToTwoServices(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	one, two := service{name: "one", app: "web", number: 1}, service{name: "two", app: "web", number: 2}
	s.addService(t, one)
	s.addService(t, two)
	pod := s.addPod(t, 0, "web", "app: web")
	ways := s.byPacket(s.addClients(t))
	s.startAgents(t)
	s.awaitPods(t, one, pod)
	s.awaitPods(t, two, pod)
	for i, w := range ways {
		for _, v6 := range bothFamilies {
			var open []*topo.Stream
			for _, svc := range []service{one, two} {
				r := topo.Request{To: w.to(svc, echo, v6), SourcePort: uint16(40000 + i)}
				stream, reply := w.client.OpenTCP(r)
				if !reply.OK() {
					t.Errorf("%s/%s/%s: %s", w.name, familyName(v6), svc.name, reply)
				}
				open = append(open, stream)
			}
			for range 3 {
				for n, stream := range open {
					if reply := stream.Exchange(5000); !reply.OK() {
						t.Errorf("%s/%s, stream %d: %s", w.name, familyName(v6), n, reply)
					}
				}
			}
		}
	}
}

// TestDirectAfterService: a client has closed a connection to a service, and connects from the same
// port to the pod behind it. The answers must no longer be translated as the service's.
func TestDirectAfterService(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 0, "web", "app: web")
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	for i, reset := range []bool{true, false} {
		for _, v6 := range bothFamilies {
			r := topo.Request{SourcePort: uint16(42000 + i), Reset: reset, Size: 1000}
			for _, to := range []netip.AddrPort{
				web.clusterIP(echo, v6), netip.AddrPortFrom(addrOf(pod.Host, v6), 7070),
			} {
				r.To = to
				if reply := c.outside.Echo(r); !reply.OK() {
					t.Errorf("to %s from port %d, reset %t: %s", to, r.SourcePort, reset, reply)
				}
			}
		}
	}
}

// TestPortReuse: a client connects again at once from the port of a connection that it has just
// closed, by a reset or in good order. Its SYN finds the record of the old connection.
func TestPortReuse(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[0])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	ways := s.byPacket(s.addClients(t))
	s.startAgents(t)
	s.awaitPods(t, web, pods...)
	// The clients' own kernels then forget a connection as soon as it is closed.
	check(t, s.Laptop.Sysctl("net.ipv4.tcp_max_tw_buckets", "0"))
	for i, w := range ways {
		for _, v6 := range bothFamilies {
			for _, reset := range []bool{true, false} {
				if w.name == "clusterip-packet" && !reset {
					continue // the sysctl is the laptop's
				}
				r := topo.Request{To: w.to(web, echo, v6), SourcePort: uint16(41000 + i), Reset: reset, Size: 100}
				t.Run(fmt.Sprintf("%s/%s/reset=%t", w.name, familyName(v6), reset), func(t *testing.T) {
					reuse(t, w.client, r)
				})
			}
		}
	}
}

func reuse(t *testing.T, c *topo.Client, r topo.Request) {
	const times = 30
	seen := map[string]int{}
	for i := range times {
		reply := c.Echo(r)
		for reply.Errno == "EADDRNOTAVAIL" { // the last FIN is under way
			reply = c.Echo(r)
		}
		if !reply.OK() {
			t.Fatalf("connection %d: %s", i, reply)
		}
		seen[reply.Pod]++
	}
	if len(seen) != 2 {
		t.Errorf("%d connections went to %v, want both pods", times, seen)
	}
}

// TestUDPTables: one request and its answer leave only records that a flood may replace. A longer
// exchange is confirmed, out of a flood's reach.
func TestUDPTables(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			s, c, services := twoServices(t, m)
			for _, svc := range services {
				for _, v6 := range bothFamilies {
					to := svc.nodePort(addrOf(s.Nodes[0].Host, v6), dns)
					udpTables(t, s, c.laptop, topo.Request{To: to, Count: 1}, false)
					udpTables(t, s, c.laptop, topo.Request{To: to, Count: 4}, true)
				}
			}
		})
	}
}

func udpTables(t *testing.T, s *setup, c *topo.Client, r topo.Request, confirmed bool) {
	t.Helper()
	reply := c.UDPConnected(r)
	if !reply.OK() {
		t.Fatal(reply)
	}
	flows, err := s.agents[0].Flows(reply.Local)
	check(t, err)
	if len(flows) != 2 {
		t.Errorf("%s, %d datagrams: %d records, want 2: %v", r.To, r.Count, len(flows), flows)
	}
	for _, f := range flows {
		if f.Confirmed() != confirmed {
			t.Errorf("%s, %d datagrams: record %v, want confirmed = %t", r.To, r.Count, describe(f), confirmed)
		}
	}
}

func describe(f maps.Flow) string {
	return fmt.Sprintf("%v > %v (confirmed %t)", f.Key, f.To, f.Confirmed())
}

// TestLargeUDP: datagrams that just fit a packet arrive whole, by every way.
func TestLargeUDP(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) {
			s, c, services := twoServices(t, m)
			for _, svc := range services {
				for _, w := range s.ways(c) {
					for _, v6 := range bothFamilies {
						largeUDP(t, svc, w, v6)
					}
				}
			}
		})
	}
}

func largeUDP(t *testing.T, svc service, w way, v6 bool) {
	t.Helper()
	size := 1500 - 20 - 8
	if v6 {
		size = 1500 - 40 - 8
	}
	reply := w.client.UDPConnected(topo.Request{To: w.to(svc, dns, v6), Size: size, Count: 5})
	if !reply.OK() || reply.Bytes != 5*size {
		t.Errorf("%s/%s/%s, 5 times %d bytes: %d came back: %s", svc.name, w.name, familyName(v6), size, reply.Bytes, reply)
	}
}

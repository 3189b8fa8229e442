// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestNodeLocal, of contract 52: a cluster IP on a device of the node, as NodeLocal DNSCache
// assigns it, is left to the node's own listener, for packets and for sockets, while the node holds
// it.
func TestNodeLocal(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { nodeLocal(t, m) })
	}
}

func nodeLocal(t *testing.T, m mode) {
	s, c, services := twoServices(t, m)
	node := s.Nodes[0]
	_, err := node.Serve(topo.Ports{HTTP: []uint16{http.number}, UDP: []uint16{dns.number}})
	check(t, err)
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("10.96.0.0/16"), node.IP4))
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("fd00:10:96::/112"), node.IP6))
	all := map[string]*topo.Client{"laptop": c.laptop, "inside": c.inside, "outside": c.outside, "node": client(t, node.Host)}
	there := map[string]*topo.Client{"another node": client(t, s.Nodes[1].Host)}

	for _, svc := range services {
		answeredBy(t, svc, svc.name, all)
		for _, v6 := range bothFamilies {
			check(t, node.AddAddr("lo", topo.Single(svc.clusterIP(dns, v6).Addr())))
		}
		s.awaitClusterIP(t, svc, false)
		answeredBy(t, svc, node.Name, all)
		answeredBy(t, svc, svc.name, there)
		refusedByNode(t, s, svc, all)
		for _, v6 := range bothFamilies {
			tcp, udp := svc.lb(http, v6), svc.lb(dns, v6)
			checkAnswers(t, "load balancer", svc.name, exchanges(c.laptop, topo.Request{To: tcp}, topo.Request{To: udp}), tcp, udp)
			check(t, node.DelAddr("lo", topo.Single(svc.clusterIP(dns, v6).Addr())))
		}
		s.awaitClusterIP(t, svc, true)
		answeredBy(t, svc, svc.name, all)
	}
}

// awaitClusterIP waits until node-1's maps serve a service's cluster IPs, or don't.
func (s *setup) awaitClusterIP(t *testing.T, svc service, served bool) {
	t.Helper()
	check(t, s.agents[0].AwaitEndpoints(svc.name, func(all map[maps.Frontend][]netip.AddrPort) bool {
		have := 0
		for f := range all {
			if f.Addr == svc.clusterIP(dns, false).Addr() || f.Addr == svc.clusterIP(dns, true).Addr() {
				have++
			}
		}
		return len(all) > 0 && (served && have == portsOfService || !served && have == 0)
	}))
}

// answeredBy sends to a service's cluster IPs by all kinds of sockets, and checks which host
// answers.
func answeredBy(t *testing.T, svc service, answerer string, clients map[string]*topo.Client) {
	t.Helper()
	for name, c := range clients {
		for _, v6 := range bothFamilies {
			tcp, udp := svc.clusterIP(http, v6), svc.clusterIP(dns, v6)
			checkAnswers(t, name, answerer, exchanges(c, topo.Request{To: tcp}, topo.Request{To: udp}), tcp, udp)
		}
	}
}

// refusedByNode sends to a port that the service has and on which no process of the node listens:
// for an address of the node, the node decides the answer of each port.
func refusedByNode(t *testing.T, s *setup, svc service, clients map[string]*topo.Client) {
	t.Helper()
	before := s.counters(t)
	for name, c := range clients {
		for _, v6 := range bothFamilies {
			if r := c.Connect(topo.Request{To: svc.clusterIP(echo, v6)}); r.Errno != "ECONNREFUSED" {
				t.Errorf("%s to %s: %s, want ECONNREFUSED", name, svc.clusterIP(echo, v6), r)
			}
		}
	}
	for what, n := range s.counters(t).Since(before) {
		switch what {
		case "xdp/refused", "tc-ingress/refused", "tc-pod/refused", "sock/refused":
			t.Errorf("%s counts %d: the node was to refuse, not the datapath", what, n)
		}
	}
}

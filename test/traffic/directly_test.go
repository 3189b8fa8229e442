// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestServiceAndEndpointByUDP, of contract 44: one unconnected UDP socket sends to a service and to
// the endpoint behind it in turn. Each answer comes from the address that was asked.
func TestServiceAndEndpointByUDP(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	for name, from := range map[string]*topo.Client{"pod": c.inside, "node": client(t, s.Nodes[0].Host)} {
		for _, v6 := range bothFamilies {
			byService, directly := web.clusterIP(dns, v6), netip.AddrPortFrom(addrOf(pod.Host, v6), 5353)
			stream, reply := from.OpenUDPUnconnected(topo.Request{To: byService})
			check(t, reply.Error())
			for i, to := range []netip.AddrPort{byService, directly, byService, byService, directly, directly, byService} {
				if reply := stream.ExchangeWith(to, 500); !reply.OK() || reply.Source != to {
					t.Errorf("%s, datagram %d to %s: %s", name, i, to, reply)
				}
			}
		}
	}
}

// TestServiceAndEndpointByPacketUDP, of contract 44: the same, for a client that is served by
// packet, on nodes where netfilter follows connections and where it does not.
func TestServiceAndEndpointByPacketUDP(t *testing.T) {
	needNFT(t)
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			s := newSetup(t, topo.Routed, m)
			web := service{name: "web", number: 1}
			s.addService(t, web)
			pod, node := s.addPod(t, 0, "web", "app: web"), s.Nodes[0]
			c := s.addClients(t)
			check(t, s.Laptop.AddRoute(netip.PrefixFrom(pod.IP4, 32), node.IP4))
			check(t, s.Laptop.AddRoute(netip.PrefixFrom(pod.IP6, 128), node.IP6))
			s.startAgents(t)
			s.awaitPods(t, web, pod)
			for _, rules := range []string{"", "table inet owner { chain forward { type filter hook forward priority 0; ct state invalid counter; }; }"} {
				nft(t, node.Host, rules)
				for _, v6 := range bothFamilies {
					directly := netip.AddrPortFrom(addrOf(pod.Host, v6), 5353)
					askBoth(t, c.outside, web.clusterIP(dns, v6), directly)
					askBoth(t, c.laptop, web.nodePort(addrOf(node.Host, v6), dns), directly)
				}
			}
		})
	}
}

// askBoth sends to the endpoint and to the service in turn from one port, in both orders. Each
// answer comes from the address that was asked.
func askBoth(t *testing.T, from *topo.Client, byService, directly netip.AddrPort) {
	t.Helper()
	for _, pair := range [][2]netip.AddrPort{{directly, byService}, {byService, directly}} {
		stream, reply := from.OpenUDPUnconnected(topo.Request{To: pair[0]})
		check(t, reply.Error())
		for i, to := range []netip.AddrPort{pair[0], pair[1], pair[0], pair[0], pair[1], pair[1], pair[0]} {
			if reply := stream.ExchangeWith(to, 500); !reply.OK() || reply.Source != to {
				t.Errorf("first %s, datagram %d to %s: %s", pair[0], i, to, reply)
			}
		}
	}
}

// TestServiceAndEndpointByTCP, of contract 44: a client that is served by packet has a connection
// to a service, and connects from the same port directly to the endpoint behind it; and in the
// other order.
func TestServiceAndEndpointByTCP(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	for i, v6 := range bothFamilies {
		byService, directly := web.clusterIP(echo, v6), netip.AddrPortFrom(addrOf(pod.Host, v6), 7070)
		connectBoth(t, c.outside, uint16(43000+i), byService, directly)
		connectBoth(t, c.outside, uint16(43100+i), directly, byService)
	}
}

// connectBoth opens two connections from one port, one after the other, and expects answers on
// both.
func connectBoth(t *testing.T, from *topo.Client, port uint16, addrs ...netip.AddrPort) {
	t.Helper()
	var open []*topo.Stream
	for _, to := range addrs {
		stream, reply := from.OpenTCP(topo.Request{To: to, SourcePort: port})
		if !reply.OK() {
			t.Fatalf("to %s: %s", to, reply)
		}
		open = append(open, stream)
	}
	for range 2 {
		for n, stream := range open {
			if reply := stream.Exchange(5000); !reply.OK() {
				t.Errorf("connection to %s: %s", addrs[n], reply)
			}
		}
	}
}

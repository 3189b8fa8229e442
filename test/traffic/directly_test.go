// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestServiceAndEndpointByUDP, of contract 44: one unconnected UDP socket asks a service and the
// endpoint behind it in turn, and each answer is from the address that was asked.
func TestServiceAndEndpointByUDP(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	for who, from := range map[string]*topo.Client{"pod": c.inside, "node": client(t, s.Nodes[0].Host)} {
		for _, v6 := range bothFamilies {
			byService, directly := web.clusterIP(dns, v6), netip.AddrPortFrom(addrOf(pod.Host, v6), 5353)
			stream, reply := from.OpenUDPUnconnected(topo.Request{To: byService})
			check(t, reply.Error())
			for i, to := range []netip.AddrPort{byService, directly, byService, byService, directly, directly, byService} {
				if reply := stream.ExchangeWith(to, 500); !reply.OK() || reply.Source != to {
					t.Errorf("%s, datagram %d to %s: %s", who, i, to, reply)
				}
			}
		}
	}
}

// TestServiceAndEndpointByTCP, of contract 44: a client that is served by packet has a connection to a
// service, and connects from the same port directly to the endpoint behind it.
func TestServiceAndEndpointByTCP(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	for i, v6 := range bothFamilies {
		var open []*topo.Stream
		for _, to := range []netip.AddrPort{web.clusterIP(echo, v6), netip.AddrPortFrom(addrOf(pod.Host, v6), 7070)} {
			stream, reply := c.outside.OpenTCP(topo.Request{To: to, SourcePort: uint16(43000 + i)})
			if !reply.OK() {
				t.Fatalf("to %s: %s", to, reply)
			}
			open = append(open, stream)
		}
		for range 2 {
			for n, stream := range open {
				if reply := stream.Exchange(5000); !reply.OK() {
					t.Errorf("connection %d: %s", n, reply)
				}
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net"
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// behind is a conversation with a backend at some address behind `back`.
func behind(n *node, v variant, backend netip.Addr) *conversation {
	n.t.Helper()
	p := otherDevice
	p.backend = func(plan) netip.Addr { return backend }
	return converse(n, v, p)
}

// TestNeighbourUnresolved: XDP can't resolve a neighbour, tc's redirect can. Once it is resolved,
// XDP takes over.
func TestNeighbourUnresolved(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := behind(newNode(t), v, v.silent)
		c.path.request = (*conversation).requestTC
		c.request()
		c.request() // still unresolved: nothing wrong is kept
		c.reply()
		equal(t, "generation", 0, c.get(c.clientKey()).Hop>>32)

		must(setNeighbour(back, v.silent, macOf(v.silent)))
		defer forgetNeighbour(back, v.silent)
		c.path.request = (*conversation).requestXDP
		c.request(acked)
	})
}

// moved is the new MAC of the neighbour `moving`.
var moved = net.HardwareAddr{0x02, 0xff, 0, 0, 0, 1}

// withMoving is an established flow to the neighbour that moves.
func withMoving(t *testing.T, v variant) *conversation {
	t.Helper()
	c := behind(newNode(t), v, v.moving)
	c.establish()
	must(setNeighbour(back, v.moving, moved))
	t.Cleanup(func() { must(join()); must(setNeighbour(back, v.moving, macOf(v.moving))) })
	c.request(acked) // the datapath does not know of the change yet
	return c
}

// goesTo expects that the client's packets leave for this neighbour of `back`.
func (c *conversation) goesTo(mac net.HardwareAddr) {
	c.t.Helper()
	r := c.xdp(front, c.packet(c.client, c.frontend, acked))
	r.became(bpf.VerdictExpress, xdpRedirect, from(c.source), to(c.backend), hopDown, macs(back.mac(), mac))
}

// TestGeneration: the next hop is looked up once, and again in a later generation.
func TestGeneration(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := withMoving(t, v)
		c.setGeneration(firstGeneration + 1)
		c.goesTo(moved)
		equal(t, "generation", firstGeneration+1, c.get(c.clientKey()).Hop>>32)
	})
}

// changeHop does what the agent does when a neighbour has changed.
func (c *conversation) changeHop(k tuple, change func(*bpf.Hop)) {
	c.t.Helper()
	index := hopIndex(c.get(k).Hop)
	n := c.nexthopAt(index)
	change(&n.Hop)
	c.put("nexthops", index, n)
}

// TestNeighbourMoved: a neighbour's MAC is written once, for all flows that use it.
func TestNeighbourMoved(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := withMoving(t, v)
		other := c.again()
		other.client = at(v.client2, other.client.Port())
		elsewhere := net.HardwareAddr{0x02, 0xff, 0, 0, 0, 2}
		other.path.request = func(c *conversation, p packet) packet { // looks the hop up, and so learns it for both
			r := c.xdp(front, p)
			c.learn(r)
			return p
		}
		other.request()
		c.goesTo(moved)
		equal(t, "next hop", hopIndex(c.get(c.clientKey()).Hop), hopIndex(c.get(other.clientKey()).Hop))
		c.changeHop(c.clientKey(), func(h *bpf.Hop) { h.Dmac = [6]byte(elsewhere) })
		c.goesTo(elsewhere)
		other.goesTo(elsewhere)
	})
}

// TestNeighbourForgotten: the FIB is queried for a neighbour that the agent marks as unknown.
func TestNeighbourForgotten(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := withMoving(t, v)
		c.changeHop(c.clientKey(), func(h *bpf.Hop) { h.Flags &^= bpf.HopResolved })
		c.goesTo(moved)
		c.goesTo(moved)
		equal(t, "next hop", [6]byte(moved), c.hopOf(c.clientKey()).Dmac)
	})
}

// TestNextHopReplaced: a flow does not use an element that has become another next hop's, in a
// later generation.
func TestNextHopReplaced(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		index := hopIndex(c.get(c.clientKey()).Hop)
		n := c.nexthopAt(index)
		n.Generation, n.Hop.Dmac, n.Hop.Ifindex = firstGeneration+1, [6]byte(moved), uint32(front.index)
		c.put("nexthops", index, n)
		c.request(acked)
		c.setGeneration(firstGeneration + 1)
		c.request(acked)
	})
}

// TestNextHopsFull: a flow that finds no place for its next hop looks it up each time.
func TestNextHopsFull(t *testing.T) {
	none := setting{name: "nexthops:1", apply: func(spec *ebpf.CollectionSpec) error {
		spec.Maps["nexthops"].MaxEntries = 1
		return nil
	}}
	forEach(t, func(t *testing.T, v variant) {
		for _, p := range []path{sameDevice, otherDevice, tcExpress} {
			c := converse(newNode(t, none), v, p)
			c.establish()
			for range 2 {
				c.request(acked)
				c.reply(flags("A"))
			}
			_, out := c.nexthop(c.get(c.clientKey()))
			_, in := c.nexthop(c.get(c.replyKey()))
			if !out || in {
				t.Errorf("%s: the first next hop is kept: %t, the second one: %t", p.name, out, in)
			}
		}
	})
}

// TestNeighbourLost: nothing of a next hop that is no longer resolved is used.
func TestNeighbourLost(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := behind(newNode(t), v, v.moving)
		c.establish()
		p := c.packet(c.client, c.frontend, acked)
		c.ingress(front, p).became(bpf.VerdictExpress, tcRedirect,
			from(c.source), to(c.backend), forwarded(back, v.moving))
		forgetNeighbour(back, v.moving)
		defer func() { must(setNeighbour(back, v.moving, macOf(v.moving))) }()
		c.setGeneration(firstGeneration + 1)
		c.ingress(front, p).became(bpf.VerdictExpress, tcRedirect, from(c.source), to(c.backend), hopDown)
	})
}

// TestNeighbourInUse: the kernel does not notice packets that a program transmits. So at intervals
// one packet is left to the kernel, XDP's by way of tc, and only one.
func TestNeighbourInUse(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, p := range []path{sameDevice, otherDevice, tcExpress} {
			n := newNode(t, variable("timeout_tcp", uint32(longest)), variable("timeout_udp", uint32(longest)))
			c := converse(n, v, p)
			c.establish()
			for range 2 {
				c.ageBy(6*second, 0, 1)
				c.idle = true
				c.request(acked)
				c.idle = true
				c.reply()
				c.request(acked)
				c.reply()
			}
		}
	})
}

// hopOf returns the next hop of a record that must have one.
func (n *node) hopOf(k tuple) bpf.Hop {
	n.t.Helper()
	hop, ok := n.nexthop(n.get(k))
	if !ok {
		n.t.Fatalf("the record of %v has no next hop", k)
	}
	return hop.Hop
}

// TestNextHop: the parts of the FIB's answer that are kept.
func TestNextHop(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		out, in := c.hopOf(c.clientKey()), c.hopOf(c.replyKey())
		equal(t, "device towards the backend", uint32(back.index), out.Ifindex)
		equal(t, "device towards the client", uint32(front.index), in.Ifindex)
		equal(t, "next hop", macOf(v.router), net.HardwareAddr(in.Dmac[:]))
	})
}

// TestNoRouteAtFirst: where the FIB has no route, no flow opens: its record would send the client's
// packets untranslated when there is a route later.
func TestNoRouteAtFirst(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, nowhere := range []netip.Addr{v.blackholed, v.unreachable} {
			n := newNode(t)
			n.serve(v, at(v.vip, 80), at(nowhere, backendPort))
			syn := v.packet(at(v.client, clientPort), at(v.vip, 80))
			n.xdp(front, syn).dropped(bpf.VerdictDropNoRoute)
			n.ingress(front, syn).dropped(bpf.VerdictDropNoRoute)
			equal(t, "records", 0, n.size(v))
		}
	})
}

// TestRouteLost: a flow whose route is gone can't be left to the kernel, which would send the
// client's packet on without SNAT.
func TestRouteLost(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		// The record now leads to an address without a route.
		c.alter(c.clientKey(), func(r *record) { r.dst = at(v.unreachable, backendPort) })
		c.setGeneration(firstGeneration + 1)
		p := c.packet(c.client, c.frontend, acked)
		c.xdp(front, p).passed(bpf.VerdictLeftToTC)
		c.ingress(front, p).dropped(bpf.VerdictDropNoRoute)
	})
}

// TestXDPDeviceMissing: XDP can't send by the device after all.
func TestXDPDeviceMissing(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		if err := c.maps["xdp_devices"].Delete(uint32(back.index)); err != nil {
			t.Fatal(err)
		}
		c.xdp(front, c.packet(c.client, c.frontend)).dropped(bpf.VerdictDropError)
	})
}

// TestHopLimit: a packet whose hop limit ends here is not sent on.
func TestHopLimit(t *testing.T) {
	for _, p := range []path{sameDevice, otherDevice} {
		t.Run(p.name, func(t *testing.T) {
			forEach(t, func(t *testing.T, v variant) {
				c := converse(newNode(t), v, p)
				c.request(ttl(2))
				for _, hops := range []uint8{1, 0} {
					c.xdp(front, c.packet(c.client, c.frontend, ttl(hops))).dropped(bpf.VerdictDropTTL)
					c.xdp(p.out, c.packet(c.backend, c.source, synAck, ttl(hops))).dropped(bpf.VerdictDropTTL)
				}
			})
		})
	}
	t.Run("tc", func(t *testing.T) {
		forEach(t, func(t *testing.T, v variant) {
			c := converse(newNode(t), v, tcExpress)
			c.request(ttl(2))
			p := c.packet(c.client, c.frontend, ttl(1))
			c.xdp(front, p).passed(bpf.VerdictLeftToTC)
			c.ingress(front, p).dropped(bpf.VerdictDropTTL)
		})
	})
}

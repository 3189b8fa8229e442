// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// behind is a conversation with a backend at some address behind `back`.
func behind(n *node, v variant, backend netip.Addr) *conversation {
	n.t.Helper()
	p := otherDevice
	p.backend = func(plan) netip.Addr { return backend }
	return converse(n, v, p)
}

// TestNeighbourUnresolved: XDP can't resolve it, tc's redirect can. Once it is
// resolved, XDP takes over.
func TestNeighbourUnresolved(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := behind(newNode(t), v, v.silent)
		c.path.request = (*conversation).requestTC
		c.request()
		c.request() // still unresolved: nothing wrong is kept
		c.reply()
		equal(t, "epoch", 0, c.get(pending, c.clientKey()).Hop.Epoch)

		must(setNeighbour(back, v.silent, macOf(v.silent)))
		defer forgetNeighbour(back, v.silent)
		c.path.request = (*conversation).requestXDP
		c.request(acked)
	})
}

// TestEpoch: the next hop is asked for once, and again when the epoch has moved.
func TestEpoch(t *testing.T) {
	moved := net.HardwareAddr{0x02, 0xff, 0, 0, 0, 1}
	inTurn(t, func(t *testing.T, v variant) {
		c := behind(newNode(t), v, v.moving)
		c.establish()
		must(setNeighbour(back, v.moving, moved))
		defer func() { must(setNeighbour(back, v.moving, macOf(v.moving))) }()
		c.request(acked) // the epoch stands, and so does the record

		c.setEpoch(firstEpoch + 1)
		p := c.packet(c.client, c.frontend, acked)
		r := c.xdp(front, p)
		r.became(bpf.VerdictExpress, xdpRedirect, from(c.source), to(c.backend),
			hopDown, macs(back.mac(), moved))
		equal(t, "epoch", firstEpoch+1, c.get(confirmed, c.clientKey()).Hop.Epoch)
	})
}

// TestNeighbourLost: of a next hop that is not resolved any more nothing is used.
func TestNeighbourLost(t *testing.T) {
	inTurn(t, func(t *testing.T, v variant) {
		c := behind(newNode(t), v, v.moving)
		c.establish()
		p := c.packet(c.client, c.frontend, acked)
		c.ingress(front, p).became(bpf.VerdictExpress, tcRedirect,
			from(c.source), to(c.backend), forwarded(back, v.moving))
		forgetNeighbour(back, v.moving)
		defer func() { must(setNeighbour(back, v.moving, macOf(v.moving))) }()
		c.setEpoch(firstEpoch + 1)
		c.ingress(front, p).became(bpf.VerdictExpress, tcRedirect, from(c.source), to(c.backend), hopDown)
	})
}

// TestNeighbourInUse: of what a program transmits the kernel never hears, so that a
// packet now and then is left to it, XDP's by way of tc, and only that one.
func TestNeighbourInUse(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, p := range []path{sameDevice, otherDevice, tcExpress} {
			n := newNode(t, variable("timeout_tcp", uint32(longest)), variable("timeout_udp", uint32(longest)))
			c := converse(n, v, p)
			c.establish()
			for range 2 {
				c.ageBy(6*second, confirmed, 0, 1)
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

// TestNextHop: what a record keeps of the FIB's answer.
func TestNextHop(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		out, in := c.get(confirmed, c.clientKey()).Hop, c.get(confirmed, c.replyKey()).Hop
		equal(t, "device towards the backend", uint32(back.index), out.Ifindex)
		equal(t, "device towards the client", uint32(front.index), in.Ifindex)
		equal(t, "next hop", macOf(v.router), net.HardwareAddr(in.Dmac[:]))
	})
}

// TestNoRouteAtFirst: where the FIB knows no way, no flow is opened: its record would send the
// client's packets untranslated when there is a way at last.
func TestNoRouteAtFirst(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, nowhere := range []netip.Addr{v.blackholed, v.unreachable} {
			n := newNode(t)
			n.serve(v, at(v.vip, 80), at(nowhere, backendPort))
			syn := v.packet(at(v.client, clientPort), at(v.vip, 80))
			n.xdp(front, syn).dropped(bpf.VerdictDropNoRoute)
			n.ingress(front, syn).dropped(bpf.VerdictDropNoRoute)
			equal(t, "records", 0, n.size("flows_new", v))
		}
	})
}

// TestRouteLost: a flow whose way is gone can't be left to the kernel, which
// would send the client's packet on with no SNAT.
func TestRouteLost(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		// The record now leads to where no route does.
		c.alter(confirmed, c.clientKey(), func(r *record) { r.dst = at(v.unreachable, backendPort) })
		c.setEpoch(firstEpoch + 1)
		p := c.packet(c.client, c.frontend, acked)
		c.xdp(front, p).passed(bpf.VerdictLeftToTC)
		c.ingress(front, p).dropped(bpf.VerdictDropNoRoute)
	})
}

// TestXDPDeviceMissing: a device that XDP can't send by after all.
func TestXDPDeviceMissing(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		if err := c.maps["xdp_devices"].Delete(uint32(back.index)); err != nil {
			t.Fatal(err)
		}
		c.xdp(front, c.packet(c.client, c.frontend)).dropped(bpf.VerdictDropError)
	})
}

// TestHopLimit: nothing is sent on with no hop left.
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

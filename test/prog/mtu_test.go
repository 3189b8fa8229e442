// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	deviceMTU = 1500
	ipMTU     = "bytes from the IP header on"
)

// sized makes a packet of so many bytes from the IP header on.
func sized(size int) change {
	return func(p *packet) {
		p.payload = nil
		empty := p.with(content([]byte{0})) // an empty SCTP packet is another chunk
		payload(size - (len(empty.bytes()) - ethHeader) + 1)(p)
	}
}

// tooBig is the error about a too large packet, from the packet's destination.
func tooBig(p packet, mtu uint32) []byte {
	e := icmp{kind: 3, code: 4, rest: mtu}
	if !p.is4() {
		e = icmp{kind: 2, rest: mtu}
	}
	return e.about(p, p.dst.Addr(), p.src.Addr()).with(refusal, macs(p.ethDst, p.ethSrc)).bytes()
}

// saidTooBig expects that the sender got the error.
func (r result) saidTooBig(mtu uint32) {
	r.t.Helper()
	if r.is(bpf.VerdictTooBig, tcRedirect) {
		same(r.t, tooBig(r.sent, mtu), r.out)
		sound(r.t, r.out)
	}
	r.had()
}

// narrowed is a conversation with an express backend behind a route with a small MTU.
func narrowed(n *node, v variant, p path, backend netip.Addr) *conversation {
	n.t.Helper()
	p.backend = func(plan) netip.Addr { return backend }
	return converse(n, v, p)
}

// TestMTUOfNextHop: a record has the MTU with its next hop.
func TestMTUOfNextHop(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := narrowed(newNode(t), v, otherDevice, v.narrow)
		c.establish()
		equal(t, ipMTU, narrowMTU, c.hopOf(c.clientKey()).Mtu)
		equal(t, ipMTU, deviceMTU, c.hopOf(c.replyKey()).Mtu)
	})
}

// TestTooBig, of contract 41: a packet that just fits goes on. With one byte more it is answered:
// by tc, since XDP leaves it.
func TestTooBig(t *testing.T) {
	for _, p := range []path{otherDevice, tcExpress} {
		t.Run(p.name, func(t *testing.T) {
			forEach(t, func(t *testing.T, v variant) {
				backend := v.narrow
				if p.out == slow {
					backend = v.narrowSlow
				}
				c := narrowed(newNode(t), v, p, backend)
				c.establish()
				c.request(acked, sized(narrowMTU))
				for _, size := range []int{narrowMTU + 1, narrowMTU + 2, deviceMTU} {
					p := c.packet(c.client, c.frontend, acked, sized(size))
					p.noDeviceSum = true
					c.leftToTC(front, p)
					c.ingress(front, p).saidTooBig(narrowMTU)
				}
				c.reply(flags("A"), sized(deviceMTU))
				c.state(alive)
			})
		})
	}
}

// TestTooBigForClient: the answer to a reply comes from the node, the only address that the backend
// knows.
func TestTooBigForClient(t *testing.T) {
	for _, p := range []path{sameDevice, otherDevice, tcExpress, split} {
		t.Run(p.name, func(t *testing.T) {
			forEach(t, func(t *testing.T, v variant) {
				v.client = v.narrowFar
				c := converse(newNode(t), v, p)
				c.establish()
				c.reply(flags("A"), sized(narrowMTU))
				reply := c.packet(c.backend, c.source, flags("A"), seq(backendSeq), sized(narrowMTU+1))
				reply.noDeviceSum = true
				if p.out.flags&bpf.DeviceXDPTransmits != 0 {
					c.leftToTC(p.out, reply)
				}
				c.ingress(p.out, reply).saidTooBig(narrowMTU)
			})
		})
	}
}

// TestTooBigOptions: an IPv4 header of any length is quoted.
func TestTooBigOptions(t *testing.T) {
	for _, v := range []variant{tcpVariants[0], udpVariants[0], sctpVariants[0]} {
		c := narrowed(newNode(t), v, otherDevice, v.narrow)
		c.establish()
		p := c.packet(c.client, c.frontend, acked, ipOption, tcpOptions, payload(1400))
		p.noDeviceSum = true
		c.ingress(front, p).saidTooBig(narrowMTU)
	}
}

// TestTooBigFragments: the first is answered, later ones are dropped without an answer.
func TestTooBigFragments(t *testing.T) {
	for _, v := range variants[:4] {
		t.Run(v.name, func(t *testing.T) {
			c := narrowed(newNode(t), v, otherDevice, v.narrow)
			c.establish()
			pieces := c.requestPieces()
			pieces[0].noDeviceSum = true
			c.ingress(front, pieces[0]).saidTooBig(narrowMTU)
			c.ingress(front, pieces[1]).is(bpf.VerdictTooBig, tcShot)
			c.requestPiece(pieces[2]) // the rest of the packet is small
		})
	}
}

// TestTooBigGSO: for an offloaded packet the length of its segments counts.
func TestTooBigGSO(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		if !v.isTCP() && !v.isUDP() {
			t.Skip("SCTP's segments have no common size")
		}
		c := narrowed(newNode(t), v, tcExpress, v.narrowSlow)
		c.establish()
		p := c.packet(c.client, c.frontend, acked, payload(3000), macs([]byte(otherGuest), front.mac()))
		fits := narrowMTU - (p.headers() - ethHeader)
		for _, size := range []int{fits - 1, fits, fits + 1} {
			context := skbContext{
				ingress: uint32(front.index), ifindex: uint32(front.index),
				gsoSegments: 3, gsoSize: uint32(size),
			}
			r := c.run(bpf.HookTCIngress, "waggle_ingress", p.bytes(), context, 0)
			r.sent = p
			if size > fits {
				r.saidTooBig(narrowMTU)
			} else {
				r.became(bpf.VerdictExpress, tcRedirect, from(c.source), to(c.backend), forwarded(slow, c.backend.Addr()))
			}
		}
	})
}

// TestGSOByFragments: SCTP's segments have any size that its device can carry.
func TestGSOByFragments(t *testing.T) {
	for _, v := range sctpVariants {
		c := narrowed(newNode(t), v, tcExpress, v.narrowSlow)
		c.establish()
		p := c.packet(c.client, c.frontend, acked, noChecksum, payload(3000), macs([]byte(otherGuest), front.mac()))
		context := skbContext{
			ingress: uint32(front.index), ifindex: uint32(front.index), gsoSegments: 3, gsoSize: 0xffff,
		}
		r := c.run(bpf.HookTCIngress, "waggle_ingress", p.bytes(), context, 0)
		r.sent = p
		r.became(bpf.VerdictExpress, tcRedirect, from(c.source), to(c.backend), forwarded(slow, c.backend.Addr()))
	}
}

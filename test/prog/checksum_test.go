// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// TestRewriteKeepsTheRest: everything else in a packet comes out unchanged, in
// both directions, and the checksums are right with any payload.
func TestRewriteKeepsTheRest(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		for _, size := range []int{0, 1, 2, 3, 17, 18, 511, 1399, 1400} {
			c.request(acked, payload(size))
			c.reply(payload(size))
		}
		c.request(acked, tos(0xb8), payload(9)) // DSCP EF
		c.reply(tos(0x03), payload(9))          // ECN: congestion
		c.request(acked, ttl(255))
		c.reply(ttl(2))
		c.request(acked, flags("FAP"), tcpOptions, payload(5))
		if v.client.Is4() {
			c.request(acked, ipOption, payload(11))
			c.reply(ipOption, tcpOptions, payload(11))
		}
	})
}

// TestUDPWithoutChecksum: a datagram without a checksum stays without one.
func TestUDPWithoutChecksum(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if v.name != "udp4" {
			t.Skip("only UDP over IPv4 may omit it")
		}
		c := converse(newNode(t), v, p)
		c.request(noChecksum, payload(12))
		c.reply(noChecksum, payload(13))
		c.request(noChecksum, payload(14))
	})
}

// TestUDPChecksumOfZero: a sum of zero is sent as 0xffff, because zero means
// that there is none.
func TestUDPChecksumOfZero(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		c := converse(newNode(t), v, p)
		c.request()
		for _, send := range []func(...change) packet{c.request, c.reply} {
			rewritten := send(payload(2), content([]byte{0, 0}))
			out := send(content(checksumOf(rewritten)))
			equal(t, "checksum", []byte{0xff, 0xff}, checksumOf(out))
		}
	})
}

// checksumOf returns a UDP packet's checksum. As payload of the same packet, in
// place of zeros, it makes the sum zero.
func checksumOf(p packet) []byte {
	off := p.l4() + 6
	return p.bytes()[off : off+2]
}

// TestChecksumCarries: addresses and ports whose differences carry and borrow
// in every way, in sums that are about to overflow.
func TestChecksumCarries(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, sameDevice)
		c.establish()
		word := make([]byte, 2)
		for i := 0; i < 1<<16; i += 251 {
			binary.BigEndian.PutUint16(word, uint16(i))
			c.request(acked, content(word))
		}
	})
}

// TestChangesCancel: the sum of the new addresses and ports is that of the old
// ones, so the transport checksum does not change. The checksum that covers
// only addresses does.
func TestChangesCancel(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		sum := func(a netip.Addr) (sum uint32) {
			for b := a.AsSlice(); len(b) > 0; b = b[2:] {
				sum += uint32(binary.BigEndian.Uint16(b))
			}
			return sum
		}
		frontend := at(v.vip, 80)
		backend := at(v.pod, uint16((sum(v.vip)+80+2*0xffff-sum(v.pod)%0xffff)%0xffff))
		n.serve(v, frontend, backend)
		client := at(v.client, clientPort)
		r := n.ingress(front, v.packet(client, frontend, payload(9)))
		request := r.became(bpf.VerdictStack, tcNext, to(backend))
		if v.isTCP() || v.isUDP() {
			equal(t, "checksum", checksumIn(r.sent), checksumIn(request))
		}
		n.egress(front, v.packet(backend, client, synAck, payload(9))).became(bpf.VerdictSource, tcNext, from(frontend))
	})
}

func checksumIn(p packet) []byte {
	off := p.l4() + 6
	if p.proto == layers.IPProtocolTCP {
		off = p.l4() + 16
	}
	return p.bytes()[off : off+2]
}

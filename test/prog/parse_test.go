// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// everywhere runs every packet program on a frame.
func (n *node) everywhere(frame []byte) []result {
	n.t.Helper()
	return []result{
		n.xdpFrame(front, frame),
		n.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, frame, 0),
		n.tcFrame(bpf.HookTCEgress, "waggle_egress", front, frame, 0),
		n.tcFrame(bpf.HookTCPod, "waggle_pod", front, frame, 0),
	}
}

// serving has a service of each protocol on the VIP and on the client's port,
// so that no packet passes merely for want of a service.
func serving(t *testing.T, v variant) (n *node, ours packet) {
	t.Helper()
	n = newNode(t)
	n.serve(v, at(v.vip, 80), at(v.near, backendPort))
	return n, v.packet(at(v.client, clientPort), at(v.vip, 80), payload(10))
}

// TestNotUnderstood: packets that can't be parsed pass unchanged, and are
// counted.
func TestNotUnderstood(t *testing.T) {
	for _, c := range []struct {
		name   string
		want   bpf.Verdict
		mangle func(packet) []byte // nil: this family has no such packet
	}{
		{"middle fragment", bpf.VerdictFragment, ip4(func(b []byte) { put16(b[6:], 0x2001) })},
		{"last fragment", bpf.VerdictFragment, ip4(func(b []byte) { put16(b[6:], 0x1fff) })},
		{"fragment header", bpf.VerdictFragment, extension(layers.IPProtocolIPv6Fragment)},
		{"hop-by-hop options", bpf.VerdictUnparsed, extension(layers.IPProtocolIPv6HopByHop)},
		{"routing header", bpf.VerdictUnparsed, extension(layers.IPProtocolIPv6Routing)},
		{"destination options", bpf.VerdictUnparsed, extension(layers.IPProtocolIPv6Destination)},
		{"IHL too small", bpf.VerdictUnparsed, ip4(func(b []byte) { b[0] = 0x44 })},
		{"IHL beyond the packet", bpf.VerdictUnparsed, ip4(func(b []byte) { b[0] = 0x4f; b[3] = 60 })},
		{"IHL of nothing", bpf.VerdictUnparsed, ip4(func(b []byte) { b[0] = 0x40 })},
		{"IP version of the other family", bpf.VerdictUnparsed, anyIP(func(b []byte) { b[0] ^= 0x20 })},
		{"IP version 0", bpf.VerdictUnparsed, anyIP(func(b []byte) { b[0] &= 0x0f })},
		{"EtherType of the other family", bpf.VerdictUnparsed, func(p packet) []byte {
			frame := p.bytes()
			put16(frame[12:], 0x0800+0x86dd-binary.BigEndian.Uint16(frame[12:]))
			return frame
		}},
		{"ICMP", bpf.VerdictNotOurs, protocol(layers.IPProtocolICMPv4)},
		{"GRE", bpf.VerdictNotOurs, protocol(layers.IPProtocolGRE)},
		{"ESP", bpf.VerdictNotOurs, protocol(layers.IPProtocolESP)},
		{"UDP-Lite", bpf.VerdictNotOurs, protocol(layers.IPProtocolUDPLite)},
		{"ARP", bpf.VerdictNotIP, etherType(layers.EthernetTypeARP)},
		{"MPLS", bpf.VerdictNotIP, etherType(layers.EthernetTypeMPLSUnicast)},
		{"LLDP", bpf.VerdictNotIP, etherType(layers.EthernetTypeLinkLayerDiscovery)},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			for _, v := range []variant{variants[0], variants[3]} {
				n, ours := serving(t, v)
				frame := c.mangle(ours)
				if frame == nil {
					continue
				}
				for _, r := range n.everywhere(frame) {
					r.passed(c.want)
				}
				equal(t, "records", 0, n.size(v))
			}
		})
	}
}

func put16(b []byte, n uint16) { binary.BigEndian.PutUint16(b, n) }

func anyIP(change func([]byte)) func(packet) []byte {
	return func(p packet) []byte {
		frame := p.bytes()
		change(frame[ethHeader:])
		return frame
	}
}

func ip4(change func([]byte)) func(packet) []byte {
	return func(p packet) []byte {
		if !p.is4() {
			return nil
		}
		return anyIP(change)(p)
	}
}

func protocol(n layers.IPProtocol) func(packet) []byte {
	return func(p packet) []byte {
		frame := p.bytes()
		if p.is4() {
			frame[ethHeader+9] = byte(n)
		} else {
			frame[ethHeader+6] = byte(n)
		}
		return frame
	}
}

func etherType(n layers.EthernetType) func(packet) []byte {
	return func(p packet) []byte {
		frame := p.bytes()
		put16(frame[12:], uint16(n))
		return frame
	}
}

// extension puts 8 bytes of extension header before the transport's.
func extension(n layers.IPProtocol) func(packet) []byte {
	return func(p packet) []byte {
		if p.is4() {
			return nil
		}
		header := gopacket.Payload{byte(p.proto), 0, 1, 4, 0, 0, 0, 0}
		transport := p.transport()
		p.proto = n
		return p.frame(p.ip(), header, transport, gopacket.Payload(p.payload))
	}
}

// TestVLAN: XDP sees the tag. For the kernel's tc hooks it is beside the
// packet, which a test run can't make.
func TestVLAN(t *testing.T) {
	for _, tag := range []layers.EthernetType{layers.EthernetTypeDot1Q, layers.EthernetTypeQinQ} {
		n, ours := serving(t, variants[0])
		frame := ours.bytes()
		put16(frame[12:], 0)
		tagged := append(frame[:12:12], byte(tag>>8), byte(tag), 0, 7, 8, 0)
		n.xdpFrame(front, append(tagged, frame[ethHeader:]...)).passed(bpf.VerdictVlan)
	}
}

// TestTruncated: a good packet, cut at every byte. Once the headers are
// complete it is ours, whatever is missing behind them.
func TestTruncated(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, sameDevice)
		c.establish()
		for _, changes := range [][]change{{}, {tcpOptions}, {ipOption, tcpOptions}} {
			cutEverywhere(c, c.packet(c.client, c.frontend, acked, payload(20)).with(changes...))
		}
	})
}

func cutEverywhere(c *conversation, p packet) {
	c.t.Helper()
	p = p.with(macs(p.ethSrc, front.mac()))
	whole := p.bytes()
	rewritten := p.with(from(c.source), to(c.backend), forwarded(front, c.backend.Addr()))
	for size := ethHeader; size <= len(whole); size++ {
		cut := whole[:size:size]
		c.cut(c.xdpFrame(front, cut), p, rewritten)
		if size < p.l4() {
			continue // the kernel makes no skb of it
		}
		r := c.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, cut, 0)
		c.cut(r, p, rewritten)
	}
}

// cut expects that the remaining bytes became what those of the whole packet
// would have.
func (c *conversation) cut(r result, p, want packet) {
	c.t.Helper()
	if len(r.in) < p.headers() {
		r.passed(bpf.VerdictUnparsed)
		return
	}
	equal(c.t, "verdict", bpf.VerdictName(bpf.VerdictExpress), bpf.VerdictName(r.verdict))
	same(c.t, want.bytes()[:len(r.in)], r.out)
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

const answerTTL = 64

// clusterIP decides about packets for no flow and no frontend. They may be for a cluster IP.
func (n *Node) clusterIP(p *packet) Result {
	dst := p.tuple.Dst.Addr()
	inside, inCIDR := false, false
	for r, cidr := range n.ClusterRanges {
		if r.Contains(dst) {
			inside, inCIDR = true, inCIDR || cidr
		}
	}
	switch {
	case !inside:
		return left(bpf.VerdictNotOurs, p)
	case n.ClusterAddrs[dst]:
		return n.answerForClusterIP(p)
	case inCIDR:
		return left(bpf.VerdictDropUnallocated, p)
	}
	return left(bpf.VerdictNotOurs, p)
}

// answerable reports whether a packet may be answered: RFC 1122, 3.2.2 and RFC 4443, 2.4 (e).
func answerable(p *packet) bool {
	return p.part != later && canSend(p.tuple.Src.Addr())
}

// canSend returns false for addresses that no single host has: RFC 1812, 5.3.7.
func canSend(a netip.Addr) bool {
	if a.IsUnspecified() || a.IsLoopback() || a.IsMulticast() {
		return false
	}
	return a.Is6() || a.As4()[0] < 224
}

func (n *Node) answerForClusterIP(p *packet) Result {
	if !answerable(p) || p.flags&Rst != 0 {
		return left(bpf.VerdictDropNoFlow, p)
	}
	if !p.within(8) || p.isBig() {
		return left(bpf.VerdictDropError, p)
	}
	icmp, request := uint8(ICMP), uint8(layers.ICMPv4TypeEchoRequest)
	if p.v6 {
		icmp, request = ICMPv6, layers.ICMPv6TypeEchoRequest
	}
	if p.proto() == icmp {
		switch {
		case p.frame[p.l4] != request: // no error about an error
			return left(bpf.VerdictDropNoFlow, p)
		case n.AnswerPing:
			return Result{Redirect, bpf.VerdictAnswered, p.echo()}
		}
	}
	return n.refuse(p)
}

// echo turns a ping into its answer.
func (p *packet) echo() []byte {
	out := append([]byte(nil), p.frame...)
	copy(out, p.frame[6:12])
	copy(out[6:], p.frame[:6])
	if p.v6 {
		out[p.l4], out[ethernet+7] = layers.ICMPv6TypeEchoReply, answerTTL
	} else {
		out[p.l4], out[ethernet+8] = layers.ICMPv4TypeEchoReply, answerTTL
	}
	p.storeAddrs(out, p.tuple.Dst.Addr(), p.tuple.Src.Addr())
	p.sumICMP(out)
	return out
}

// sumICMP sets an ICMP message's checksum after a change of the message.
func (p *packet) sumICMP(out []byte) {
	right := func(frame []byte) uint16 {
		m := p.message(frame)
		var pseudo []byte
		if p.v6 {
			src, dst := addrs(frame, true)
			pseudo = PseudoHeader(src, dst, ICMPv6, len(m))
		}
		return Checksum(pseudo, m[:2], m[4:])
	}
	found := binary.BigEndian.Uint16(p.frame[p.l4+2:])
	binary.BigEndian.PutUint16(out[p.l4+2:], carry(found, right(p.frame), right(out)))
}

// answer makes a frame back to a packet's sender.
func (p *packet) answer(proto uint8, transport ...gopacket.SerializableLayer) []byte {
	src, dst := p.tuple.Dst.Addr().AsSlice(), p.tuple.Src.Addr().AsSlice()
	var ip gopacket.SerializableLayer = &layers.IPv4{
		Version: 4, TTL: answerTTL, Protocol: layers.IPProtocol(proto), SrcIP: src, DstIP: dst,
	}
	if p.v6 {
		ip = &layers.IPv6{
			Version: 6, HopLimit: answerTTL, NextHeader: layers.IPProtocol(proto), SrcIP: src, DstIP: dst,
		}
	}
	for _, l := range transport {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			must(l.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
		}
	}
	buffer := gopacket.NewSerializeBuffer()
	options := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(gopacket.SerializeLayers(buffer, options, append([]gopacket.SerializableLayer{ip}, transport...)...))
	frame := append([]byte(nil), p.frame[6:12]...)
	frame = append(frame, p.frame[:6]...)
	frame = append(frame, p.frame[12:14]...)
	return append(frame, buffer.Bytes()...)
}

// refuse answers a packet that nothing serves: RFC 9293, 3.10.7.1, or ICMP. A packet that has more
// than a plain IP header leaves no room to make a reset in.
func (n *Node) refuse(p *packet) Result {
	if p.proto() != TCP {
		return Result{Redirect, bpf.VerdictRefused, p.unreachable()}
	}
	plain := ethernet + 20
	if p.v6 {
		plain = ethernet + 40
	}
	if p.l4 != plain {
		return left(bpf.VerdictDropError, p)
	}
	reset := &layers.TCP{
		SrcPort: layers.TCPPort(p.tuple.Dst.Port()), DstPort: layers.TCPPort(p.tuple.Src.Port()), RST: true,
	}
	if p.flags&Ack != 0 {
		reset.Seq = p.ack
	} else {
		header := int(p.frame[p.l4+12]>>4) * 4
		reset.ACK, reset.Ack = true, p.seq+uint32(p.l4Length()-header)
		for _, counted := range []uint8{Syn, Fin} {
			if p.flags&counted != 0 {
				reset.Ack++
			}
		}
	}
	return Result{Redirect, bpf.VerdictRefused, p.answer(TCP, reset)}
}

// quote returns the part of a packet that an error about it quotes.
func (p *packet) quote() gopacket.Payload {
	size := 8
	if p.proto() == TCP {
		size = 20
	}
	return p.frame[ethernet : p.l4+size]
}

func (p *packet) unreachable() []byte {
	return p.errorAbout(
		layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort),
		layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable), 0)
}

func (p *packet) errorAbout(v4 layers.ICMPv4TypeCode, v6 layers.ICMPv6TypeCode, rest uint32) []byte {
	if !p.v6 {
		return p.answer(ICMP, &layers.ICMPv4{TypeCode: v4, Seq: uint16(rest), Id: uint16(rest >> 16)}, p.quote())
	}
	word := binary.BigEndian.AppendUint32(nil, rest)
	return p.answer(ICMPv6, &layers.ICMPv6{TypeCode: v6}, gopacket.Payload(append(word, p.quote()...)))
}

// sayTooBig answers a packet larger than mtu. Later fragments get no answer.
func (n *Node) sayTooBig(p *packet, mtu int) Result {
	if p.part == later {
		return Result{Action: Drop, Verdict: bpf.VerdictTooBig}
	}
	return Result{Redirect, bpf.VerdictTooBig, p.errorAbout(
		layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded),
		layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0), uint32(mtu))}
}

// isUnicast returns false for addresses that can't be a packet's source.
func isUnicast(a netip.Addr) bool { return !a.IsMulticast() && !a.IsUnspecified() }

func must(err error) {
	if err != nil {
		panic(err)
	}
}

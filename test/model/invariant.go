// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// Forwarded returns the frame that the kernel sends when it routes a frame on, and its destination.
// The result is false if the kernel doesn't.
func Forwarded(frame []byte) ([]byte, netip.Addr, bool) {
	kind := binary.BigEndian.Uint16(frame[12:])
	if kind != typeIPv4 && kind != typeIPv6 {
		return nil, netip.Addr{}, false
	}
	p, how := read(frame, kind == typeIPv6)
	if how == unreadable || p.ttl <= 1 || !isUnicast(p.tuple.Dst.Addr()) {
		return nil, netip.Addr{}, false
	}
	out := append([]byte(nil), frame...)
	p.hopDown(out)
	return out, p.tuple.Dst.Addr(), true
}

// CanSum reports whether a device's sum over a frame stays right while the frame is rewritten. It
// doesn't where the sender of a datagram left out its checksum; nothing checks the sum then.
func CanSum(frame []byte) bool {
	v6 := binary.BigEndian.Uint16(frame[12:]) == typeIPv6
	p, how := read(frame, v6)
	if how == isFragment {
		how = understood
		if !p.readPart() {
			return true
		}
	}
	return how != understood || p.proto() != UDP || len(p.frame) < p.l4+8 ||
		p.part != later && binary.BigEndian.Uint16(p.frame[p.l4+6:]) != 0
}

// Sound reports whether all checksums of a frame that can be verified are right, summed in one way
// for all packets. For cut packets and fragments it checks only the IP header's.
func Sound(frame []byte) bool {
	kind := binary.BigEndian.Uint16(frame[12:])
	if kind != typeIPv4 && kind != typeIPv6 {
		return true
	}
	p, how := read(frame, kind == typeIPv6)
	if how == unreadable {
		return true
	}
	if !p.v6 && len(frame) >= p.l4 && sum(frame[ethernet:p.l4]) != 0xffff {
		return false
	}
	if how == isFragment || p.length > len(frame)-ethernet || p.l4Length() < 8 {
		return true
	}
	message := p.message(frame)
	var pseudo []byte
	switch p.proto() {
	case TCP, UDP, ICMPv6:
		pseudo = PseudoHeader(p.tuple.Src.Addr(), p.tuple.Dst.Addr(), p.proto(), len(message))
	case ICMP:
	case SCTP:
		found := binary.LittleEndian.Uint32(message[8:])
		return found == 0 || found == SCTPChecksum(message)
	default:
		return true
	}
	if p.proto() == UDP && message[6] == 0 && message[7] == 0 {
		return true
	}
	return sum(pseudo, message) == 0xffff
}

// Ends returns a frame's addresses.
func Ends(frame []byte) (src, dst netip.Addr) {
	return addrs(frame, binary.BigEndian.Uint16(frame[12:]) == typeIPv6)
}

// Led returns the tuple of a packet to a frontend, if the packet is one and has ports.
func (n *Node) Led(hook bpf.Hook, frame []byte) (Tuple, bool) {
	kind := binary.BigEndian.Uint16(frame[12:])
	if kind != typeIPv4 && kind != typeIPv6 {
		return Tuple{}, false
	}
	p, how := read(frame, kind == typeIPv6)
	if how == isFragment && p.readPart() && p.part == first {
		how = p.readFirst()
	}
	p.tuple.Zone = zones[hook]
	return p.tuple, how == understood && n.frontend(p.tuple.Dst, p.tuple.Proto) != nil
}

// Torn returns a client's record whose other half is not where answers would look for it. A closed
// flow may have lost it to the next one, and an unconfirmed flow to any.
func (n *Node) Torn() (Tuple, bool) {
	for _, table := range n.byFamily {
		for t, r := range table {
			if r.is(bpf.FlowReply|bpf.FlowSplitSource) || r.closed() || n.other(t, r) != nil || n.dead(t, r) {
				continue
			}
			if taken := table[r.mirror(t)] != nil; !taken || r.isConfirmed() {
				return t, true
			}
		}
	}
	return Tuple{}, false
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// IP protocol numbers.
const (
	TCP      = 6
	UDP      = 17
	SCTP     = 132
	ICMP     = 1
	ICMPv6   = 58
	fragment = 44
)

// Bits of a TCP header. Other protocols are described in the same terms.
const (
	Fin = 1
	Syn = 2
	Rst = 4
	Ack = 16
)

const (
	ethernet = 14
	typeIPv4 = 0x0800
	typeIPv6 = 0x86dd
)

// reading is how far a packet could be parsed.
type reading int

const (
	understood    reading = iota
	otherProtocol         // IP, but a protocol without ports
	unreadable            // truncated, malformed, or with headers that aren't parsed
	isFragment            // its ports must be found first
)

// part is which part of a packet a fragment is.
type part int

const (
	whole part = iota
	first
	later // it has no transport header
)

// packet is a parsed frame.
type packet struct {
	frame  []byte
	v6     bool
	tuple  Tuple // its zone is the hook's
	ttl    uint8
	l4     int // offset of the transport header
	length int // from the IP header on, as the header says
	part   part
	id     uint32 // of the packet that this is a fragment of
	flags  uint8
	seq    uint32
	ack    uint32
}

func (p *packet) leaves() bool { return p.tuple.Zone == bpf.ZoneLeaving }

func (p *packet) proto() uint8 { return p.tuple.Proto }

// l4Length returns the length of the transport header and what follows it, according to the IP
// header.
func (p *packet) l4Length() int { return p.length - (p.l4 - ethernet) }

// read parses the IP header and, for whole packets, the transport's.
func read(frame []byte, v6 bool) (packet, reading) {
	p := packet{frame: frame, v6: v6}
	if v6 {
		return p, p.readIPv6()
	}
	return p, p.readIPv4()
}

func (p *packet) readIPv4() reading {
	ip := p.frame[ethernet:]
	if len(ip) < 20 || ip[0]>>4 != 4 || ip[0]&15 < 5 {
		return unreadable
	}
	p.tuple.Proto, p.ttl = ip[9], ip[8]
	p.tuple.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0)
	p.tuple.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
	p.length = int(binary.BigEndian.Uint16(ip[2:]))
	p.l4 = ethernet + 4*int(ip[0]&15)
	if place := binary.BigEndian.Uint16(ip[6:]); place&0x3fff != 0 {
		p.id = uint32(binary.BigEndian.Uint16(ip[4:]))
		p.part = later
		if place&0x1fff == 0 {
			p.part = first
		}
		return isFragment
	}
	return p.readTransport()
}

func (p *packet) readIPv6() reading {
	ip := p.frame[ethernet:]
	if len(ip) < 40 || ip[0]>>4 != 6 {
		return unreadable
	}
	p.tuple.Proto, p.ttl = ip[6], ip[7]
	p.tuple.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])), 0)
	p.tuple.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])), 0)
	p.length = 40 + int(binary.BigEndian.Uint16(ip[4:]))
	p.l4 = ethernet + 40
	switch p.tuple.Proto {
	case fragment:
		return isFragment
	case 0, 43, 60: // hop-by-hop options, routing, destination options
		return unreadable
	}
	return p.readTransport()
}

// readPart parses what fragments have instead of, or before, a transport header.
func (p *packet) readPart() bool {
	if !p.v6 {
		return true
	}
	if len(p.frame) < p.l4+8 {
		return false
	}
	header := p.frame[p.l4:]
	p.tuple.Proto, p.l4 = header[0], p.l4+8
	p.id = binary.BigEndian.Uint32(header[4:])
	p.part = later
	if binary.BigEndian.Uint16(header[2:])&^7 == 0 {
		p.part = first
	}
	return true
}

// within reports whether so much of the transport's header is in the frame, and in the packet.
func (p *packet) within(size int) bool {
	return len(p.frame) >= p.l4+size && (p.l4Length() >= size || p.isBig())
}

// isBig reports whether a packet is beyond 64 KiB, a size that does not fit its header. GRO makes
// such packets of many.
func (p *packet) isBig() bool {
	return p.part == whole && (p.length == 0 || p.v6 && p.length == 40)
}

func (p *packet) readTransport() reading {
	switch p.proto() {
	case TCP:
		if !p.within(20) {
			return unreadable
		}
		b := p.frame[p.l4:]
		p.seq, p.ack, p.flags = binary.BigEndian.Uint32(b[4:]), binary.BigEndian.Uint32(b[8:]), b[13]
	case UDP:
		if !p.within(8) {
			return unreadable
		}
	case SCTP:
		if !p.readSCTP() {
			return unreadable
		}
	default:
		return otherProtocol
	}
	b := p.frame[p.l4:]
	p.tuple = p.tuple.withPorts(binary.BigEndian.Uint16(b), binary.BigEndian.Uint16(b[2:]))
	return understood
}

// readFirst parses the transport header of a first fragment.
func (p *packet) readFirst() reading {
	if p.proto() == SCTP && p.within(16) {
		// The checksum is over the whole packet. Its length is known if its chunk is larger than
		// this fragment.
		length := p.onlyChunk()
		if length < p.l4Length() || length > 0xffff || p.frame[p.l4+12] == 2 { // INIT ACK
			return isFragment
		}
	}
	return p.readTransport()
}

// onlyChunk returns the length of an SCTP message of one chunk.
func (p *packet) onlyChunk() int {
	return 12 + (int(binary.BigEndian.Uint16(p.frame[p.l4+14:]))+3)&^3
}

// readSCTP describes an association in TCP's terms by its first chunk (RFC 9260, 3.2). The tag that
// an INIT ACK asked for acknowledges it.
func (p *packet) readSCTP() bool {
	if !p.within(16) || p.isBig() {
		return false
	}
	b := p.frame[p.l4:]
	p.ack = binary.BigEndian.Uint32(b[4:])
	switch b[12] {
	case 1: // INIT
		p.flags = Syn
	case 2: // INIT ACK
		if !p.within(20) {
			return false
		}
		p.flags, p.seq = Syn|Ack, binary.BigEndian.Uint32(b[16:])-1
	case 6: // ABORT
		p.flags = Rst
	case 7, 8, 14: // SHUTDOWN and its answers
		p.flags = Fin | Ack
	default:
		p.flags = Ack
	}
	return true
}

// rewritten returns the packet with other addresses and, unless it is a later fragment, other
// ports.
func (p *packet) rewritten(src, dst netip.AddrPort) []byte {
	out := append([]byte(nil), p.frame...)
	p.storeAddrs(out, src.Addr(), dst.Addr())
	if p.part == later {
		return out
	}
	binary.BigEndian.PutUint16(out[p.l4:], src.Port())
	binary.BigEndian.PutUint16(out[p.l4+2:], dst.Port())
	switch p.proto() {
	case TCP:
		p.sumTransport(out, 16)
	case UDP:
		p.sumTransport(out, 6)
	case SCTP:
		p.sumSCTP(out)
	}
	return out
}

func (p *packet) storeAddrs(out []byte, src, dst netip.Addr) {
	ip := out[ethernet:]
	if p.v6 {
		copy(ip[8:], src.AsSlice())
		copy(ip[24:], dst.AsSlice())
		return
	}
	copy(ip[12:], src.AsSlice())
	copy(ip[16:], dst.AsSlice())
	p.sumIPv4(out)
}

// sumIPv4 sets the header's checksum after a change of it.
func (p *packet) sumIPv4(out []byte) {
	if p.v6 {
		return
	}
	sumHeader(p.frame[ethernet:p.headerEnd()], out[ethernet:p.headerEnd()])
}

func (p *packet) headerEnd() int {
	return min(len(p.frame), ethernet+4*int(p.frame[ethernet]&15))
}

// sumHeader sets an IPv4 header's checksum after a change of the header.
func sumHeader(before, after []byte) {
	right := func(header []byte) uint16 { return Checksum(header[:10], header[12:]) }
	found := binary.BigEndian.Uint16(before[10:])
	binary.BigEndian.PutUint16(after[10:], carry(found, right(before), right(after)))
}

// message returns the transport's part of a frame of the packet.
func (p *packet) message(frame []byte) []byte {
	end := min(len(frame), ethernet+p.length)
	if p.isBig() {
		end = len(frame)
	}
	return frame[p.l4:end]
}

func (p *packet) sumTransport(out []byte, at int) {
	found := binary.BigEndian.Uint16(p.frame[p.l4+at:])
	if p.proto() == UDP && found == 0 { // RFC 768: the sender made none
		return
	}
	right := func(frame []byte) uint16 {
		m := p.message(frame)
		src, dst := addrs(frame, p.v6)
		return Checksum(PseudoHeader(src, dst, p.proto(), len(m)), m[:at], m[at+2:])
	}
	check := carry(found, right(p.frame), right(out))
	if p.proto() == UDP && check == 0 {
		check = 0xffff
	}
	binary.BigEndian.PutUint16(out[p.l4+at:], check)
}

func addrs(frame []byte, v6 bool) (src, dst netip.Addr) {
	ip := frame[ethernet:]
	if v6 {
		return netip.AddrFrom16([16]byte(ip[8:24])), netip.AddrFrom16([16]byte(ip[24:40]))
	}
	return netip.AddrFrom4([4]byte(ip[12:16])), netip.AddrFrom4([4]byte(ip[16:20]))
}

// sumSCTP sets the checksum: right, or wrong by as much as before. Bytes of the packet that the
// frame lacks count as zeros, because the sum is over a length.
func (p *packet) sumSCTP(out []byte) {
	found := binary.LittleEndian.Uint32(p.frame[p.l4+8:])
	if found == 0 { // left to a device
		return
	}
	length := p.l4Length()
	if p.part == first {
		length = p.onlyChunk()
	}
	right := func(frame []byte) uint32 {
		m := make([]byte, length)
		copy(m, frame[p.l4:])
		return SCTPChecksum(m)
	}
	binary.LittleEndian.PutUint32(out[p.l4+8:], found^right(p.frame)^right(out))
}

// hopDown decrements the hop limit, as a router does.
func (p *packet) hopDown(out []byte) {
	if p.v6 {
		out[ethernet+7]--
		return
	}
	out[ethernet+8]--
	p.sumIPv4(out)
}

// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// Question is a packet, or a socket, that is asked about.
type Question struct {
	To   netip.AddrPort
	From netip.AddrPort // invalid: somebody outside of the cluster
	// Proto is tcp, udp, sctp, icmp for a ping, or arp or ndp for a host that asks for the MAC of To.
	Proto string
	// Flags are TCP's: syn, ack, fin, rst, psh. For SCTP they stand for chunks, as bpf/packet.h says.
	Flags []string
	TTL   uint8 // 0: 64
	Size  int   // in bytes from the IP header on; 0: as few as possible

	Device  string // "": the one that leads to From
	Pod     string // a pod of this node that the packet comes from, instead of Device and perhaps of From
	Leaving bool   // the packet is about to leave by the device, and does not come in by it
}

// Socket is a socket of a process that is asked about.
type Socket struct {
	To    netip.AddrPort
	From  netip.Addr // that it is bound to; invalid: none
	Proto string     // tcp or udp
	// Netns is the cookie of its network namespace; 0: the node's.
	Netns uint64
	// Sends: a datagram, with no connect before.
	Sends bool
}

var protocols = map[string]uint8{
	"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP, "icmp": unix.IPPROTO_ICMP,
}

var tcpFlags = map[string]uint8{"fin": 0x01, "syn": 0x02, "rst": 0x04, "psh": 0x08, "ack": 0x10}

// Check finds what is wrong with a packet that is asked about. The error names the command's flag.
func (q *Question) Check() error {
	if q.asksMAC() {
		return q.checkWhoHas()
	}
	if _, ok := protocols[q.Proto]; !ok {
		return fmt.Errorf("--proto %s: want tcp, udp, sctp, icmp, arp or ndp", q.Proto)
	}
	if q.To.Port() == 0 && q.Proto != "icmp" {
		return fmt.Errorf("--to %s: want an address and a port", q.To)
	}
	if q.From.IsValid() && q.From.Addr().Is4() != q.To.Addr().Is4() {
		return fmt.Errorf("--from %s: --to %s is of the other address family", q.From, q.To)
	}
	for _, f := range q.Flags {
		if _, ok := tcpFlags[f]; !ok {
			return fmt.Errorf("--flags %s: want some of syn, ack, fin, rst, psh", f)
		}
	}
	if q.Size != 0 && (q.Size < q.headers() || q.Size > 0xffff) {
		return fmt.Errorf("--size %d: want %d to 65535 bytes", q.Size, q.headers())
	}
	return nil
}

func (q *Question) ipHeader() int {
	if q.To.Addr().Is4() {
		return 20
	}
	return 40
}

func (q *Question) headers() int { return q.ipHeader() + len(q.transport()) }

// packet is the packet from its IP header on. Checksums are not in it: they decide about nothing.
func (q *Question) packet() []byte {
	size := max(q.Size, q.headers())
	ttl := q.TTL
	if ttl == 0 {
		ttl = 64
	}
	b := make([]byte, size)
	proto := protocols[q.Proto]
	if q.To.Addr().Is4() {
		b[0] = 0x45
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		b[6] = 0x40 // not to be fragmented
		b[8], b[9] = ttl, proto
		copy(b[12:], q.From.Addr().AsSlice())
		copy(b[16:], q.To.Addr().AsSlice())
	} else {
		if proto == unix.IPPROTO_ICMP {
			proto = unix.IPPROTO_ICMPV6
		}
		b[0] = 0x60
		binary.BigEndian.PutUint16(b[4:], uint16(size-40))
		b[6], b[7] = proto, ttl
		copy(b[8:], q.From.Addr().AsSlice())
		copy(b[24:], q.To.Addr().AsSlice())
	}
	copy(b[q.ipHeader():], q.transport())
	return b
}

// transport is the header of the transport layer, and of SCTP the chunk that the flags stand for.
func (q *Question) transport() []byte {
	var flags uint8
	for _, f := range q.Flags {
		flags |= tcpFlags[f]
	}
	ports := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, q.From.Port()), q.To.Port())
	switch q.Proto {
	case "tcp":
		return append(ports, 0, 0, 0, 1, 0, 0, 0, 0, 5<<4, flags, 0xff, 0xff, 0, 0, 0, 0)
	case "udp":
		return append(ports, byte((max(q.Size, q.ipHeader()+8)-q.ipHeader())>>8), byte(max(q.Size, q.ipHeader()+8)-q.ipHeader()), 0, 0)
	case "sctp":
		return append(append(ports, 0, 0, 0, 0, 0, 0, 0, 0), sctpChunk(flags)...)
	}
	echo := byte(8)
	if q.To.Addr().Is6() {
		echo = 128
	}
	return []byte{echo, 0, 0, 0, 0, 0, 0, 1}
}

// sctpChunk is the chunk that TCP's flags stand for. RFC 9260, 3.2 and 3.3.2.
func sctpChunk(flags uint8) []byte {
	kind := byte(0) // DATA
	switch {
	case flags&tcpFlags["rst"] != 0:
		kind = 6 // ABORT
	case flags&tcpFlags["fin"] != 0:
		kind = 7 // SHUTDOWN
	case flags&(tcpFlags["syn"]|tcpFlags["ack"]) == tcpFlags["syn"]:
		kind = 1 // INIT
	case flags&tcpFlags["syn"] != 0:
		kind = 2 // INIT ACK
	}
	return []byte{kind, 0, 0, 8, 0, 0, 0, 1}
}

// strangerMAC is whom a packet that is asked about comes from.
var strangerMAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x01}

// ethernet puts a packet into a frame for a device.
func ethernet(to net.HardwareAddr, packet []byte) []byte {
	frame := append(append(make([]byte, 0, 14+len(packet)), to...), strangerMAC...)
	kind := uint16(unix.ETH_P_IP)
	if len(packet) > 0 && packet[0]>>4 == 6 {
		kind = unix.ETH_P_IPV6
	}
	return append(binary.BigEndian.AppendUint16(frame, kind), packet...)
}

// tagged: a frame has a VLAN's tag, IEEE 802.1Q or 802.1ad.
func tagged(frame []byte) bool {
	if len(frame) < ethernetHeader {
		return false
	}
	kind := binary.BigEndian.Uint16(frame[ethernetHeader-2:])
	return kind == unix.ETH_P_8021Q || kind == unix.ETH_P_8021AD
}

// describe is the packet that is asked about, in words.
func (q *Question) describe() string {
	if q.asksMAC() {
		return q.describeWhoHas()
	}
	s := strings.ToUpper(q.Proto)
	if len(q.Flags) > 0 && q.Proto != "udp" && q.Proto != "icmp" {
		s += " " + strings.ToUpper(strings.Join(q.Flags, ","))
	}
	if q.Proto == "icmp" {
		return fmt.Sprintf("a ping, %s to %s", q.From.Addr(), q.To.Addr())
	}
	return fmt.Sprintf("%s, %s to %s", s, q.From, q.To)
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

const (
	ethHeader  = 14
	ip4Header  = 20
	ip6Header  = 40
	tcpHeader  = 20
	udpHeader  = 8
	sctpHeader = 12
	otherGuest = "\x02\xaa\x00\x00\x00\x01" // a sender that no test looks at
)

// packet describes a frame; bytes() makes the frame.
type packet struct {
	ethSrc, ethDst net.HardwareAddr
	src, dst       netip.AddrPort
	proto          layers.IPProtocol
	ttl, tos       uint8
	ipOptions      []layers.IPv4Option
	flags          string
	chunkAs        *byte // SCTP: instead of the chunk for the flags
	seq, ack       uint32
	tcpOptions     []layers.TCPOption
	noChecksum     bool
	noDeviceSum    bool   // see deviceSums
	ours           bool   // made by the datapath, not by a sender
	checksum       []byte // the transport checksum, right or wrong
	piece          *piece
	icmp           *icmp
	payload        []byte
}

type change func(*packet)

func tcp(src, dst netip.AddrPort, changes ...change) packet {
	return newPacket(layers.IPProtocolTCP, src, dst, changes)
}

func udp(src, dst netip.AddrPort, changes ...change) packet {
	return newPacket(layers.IPProtocolUDP, src, dst, changes)
}

// packet is a SYN or a datagram, the first packet of a client.
func (v variant) packet(src, dst netip.AddrPort, changes ...change) packet {
	return newPacket(v.proto, src, dst, changes)
}

func newPacket(proto layers.IPProtocol, src, dst netip.AddrPort, changes []change) packet {
	p := packet{
		ethSrc: net.HardwareAddr(otherGuest), ethDst: front.mac(),
		src: src, dst: dst, proto: proto, ttl: 64, flags: "S", seq: 1000,
	}
	return p.with(changes...)
}

// with returns a changed copy.
func (p packet) with(changes ...change) packet {
	for _, c := range changes {
		c(&p)
	}
	return p
}

func flags(f string) change        { return func(p *packet) { p.flags = f } }
func seq(n uint32) change          { return func(p *packet) { p.seq = n } }
func ack(n uint32) change          { return func(p *packet) { p.ack = n } }
func ttl(n uint8) change           { return func(p *packet) { p.ttl = n } }
func tos(n uint8) change           { return func(p *packet) { p.tos = n } }
func from(a netip.AddrPort) change { return func(p *packet) { p.src = a } }
func to(a netip.AddrPort) change   { return func(p *packet) { p.dst = a } }
func noChecksum(p *packet)         { p.noChecksum = true }

// cutShort: an answer has less than the minimum of an SCTP packet; see
// deviceSums.
func cutShort(p *packet) { p.noDeviceSum = p.proto == layers.IPProtocolSCTP }
func macs(src, dst net.HardwareAddr) change {
	return func(p *packet) { p.ethSrc, p.ethDst = src, dst }
}

// payload fills a packet with bytes that all differ from their neighbours.
func payload(n int) change {
	return func(p *packet) {
		p.payload = make([]byte, n)
		for i := range p.payload {
			p.payload[i] = byte(i*7 + 3)
		}
	}
}

func content(b []byte) change { return func(p *packet) { p.payload = b } }

func ipOption(p *packet) {
	// Router alert, RFC 2113: harmless, and changes where TCP begins.
	p.ipOptions = []layers.IPv4Option{{OptionType: 148, OptionLength: 4, OptionData: []byte{0, 0}}}
}

func tcpOptions(p *packet) {
	p.tcpOptions = []layers.TCPOption{
		{OptionType: layers.TCPOptionKindMSS, OptionLength: 4, OptionData: []byte{5, 180}},
		{OptionType: layers.TCPOptionKindNop}, {OptionType: layers.TCPOptionKindNop},
		{OptionType: layers.TCPOptionKindSACKPermitted, OptionLength: 2},
	}
}

// forwarded is a router's change of a frame that leaves by out for nexthop.
func forwarded(out *device, nexthop netip.Addr) change {
	return func(p *packet) {
		p.ethSrc, p.ethDst = out.mac(), macOf(nexthop)
		p.ttl--
	}
}

func hopDown(p *packet) { p.ttl-- }

func (p packet) is4() bool { return p.src.Addr().Is4() }

func (p packet) ip() gopacket.SerializableLayer {
	src, dst := p.src.Addr().AsSlice(), p.dst.Addr().AsSlice()
	switch {
	case p.is4() && p.ours:
		return &layers.IPv4{Version: 4, TTL: p.ttl, Protocol: p.proto, SrcIP: src, DstIP: dst}
	case p.ours:
		return &layers.IPv6{Version: 6, HopLimit: p.ttl, NextHeader: p.proto, SrcIP: src, DstIP: dst}
	case p.is4():
		return &layers.IPv4{
			Version: 4, Id: 0x1234, Flags: layers.IPv4DontFragment, TTL: p.ttl, TOS: p.tos,
			Protocol: p.proto, SrcIP: src, DstIP: dst, Options: p.ipOptions,
		}
	}
	return &layers.IPv6{
		Version: 6, TrafficClass: p.tos, FlowLabel: 0xabcde, HopLimit: p.ttl,
		NextHeader: p.proto, SrcIP: src, DstIP: dst,
	}
}

func (p packet) etherType() layers.EthernetType {
	if p.is4() {
		return layers.EthernetTypeIPv4
	}
	return layers.EthernetTypeIPv6
}

func (p packet) tcp() *layers.TCP {
	has := func(f string) bool { return strings.Contains(p.flags, f) }
	window := uint16(4321)
	if p.ours {
		window = 0
	}
	return &layers.TCP{
		SrcPort: layers.TCPPort(p.src.Port()), DstPort: layers.TCPPort(p.dst.Port()),
		SYN: has("S"), ACK: has("A"), FIN: has("F"), RST: has("R"), PSH: has("P"),
		Seq: p.seq, Ack: p.ack, Window: window, Options: p.tcpOptions,
	}
}

func (p packet) transport() gopacket.SerializableLayer {
	network := p.ip().(gopacket.NetworkLayer)
	if p.proto == layers.IPProtocolTCP {
		l := p.tcp()
		must(l.SetNetworkLayerForChecksum(network))
		return l
	}
	if p.proto == layers.IPProtocolSCTP {
		return p.sctp()
	}
	l := &layers.UDP{SrcPort: layers.UDPPort(p.src.Port()), DstPort: layers.UDPPort(p.dst.Port())}
	must(l.SetNetworkLayerForChecksum(network))
	return l
}

// bytes returns the frame, with lengths and checksums computed by gopacket.
func (p packet) bytes() []byte {
	switch {
	case p.icmp != nil:
		return p.icmpBytes()
	case p.piece != nil:
		return p.pieceBytes()
	}
	data := p.payload
	if p.proto == layers.IPProtocolSCTP {
		data = p.chunk()
	}
	frame := p.frame(p.ip(), p.transport(), gopacket.Payload(data))
	sum := p.transportSum(frame)
	if p.noChecksum {
		clear(sum)
	}
	copy(sum, p.checksum)
	return frame
}

// transportSum returns the transport checksum in the frame of a whole packet.
func (p packet) transportSum(frame []byte) []byte {
	switch l4 := frame[p.l4():]; p.proto {
	case layers.IPProtocolTCP:
		return l4[16:18]
	case layers.IPProtocolUDP:
		return l4[6:8]
	default:
		return l4[8:sctpHeader]
	}
}

// frame adds a link layer to a packet. (Not by gopacket, which pads to
// Ethernet's least size and hides where a packet ends.)
func (p packet) frame(l ...gopacket.SerializableLayer) []byte {
	header := slices.Concat(p.ethDst, p.ethSrc)
	header = binary.BigEndian.AppendUint16(header, uint16(p.etherType()))
	return append(header, serialize(l...)...)
}

// l4 is the offset of the transport header.
func (p packet) l4() int {
	if p.is4() {
		return ethHeader + ip4Header + 4*len(p.ipOptions)
	}
	if p.piece != nil {
		return ethHeader + ip6Header + fragmentHeader
	}
	return ethHeader + ip6Header
}

// headers is the number of bytes that a program must see to recognise the
// packet.
func (p packet) headers() int {
	switch {
	case p.proto == layers.IPProtocolTCP:
		return p.l4() + tcpHeader
	case p.proto == layers.IPProtocolSCTP && p.flags == "SA":
		return p.l4() + sctpHeader + 8 // the tag that it asks for
	case p.proto == layers.IPProtocolSCTP:
		return p.l4() + sctpHeader + 4
	}
	return p.l4() + udpHeader
}

func serialize(l ...gopacket.SerializableLayer) []byte {
	buf := gopacket.NewSerializeBuffer()
	opts := gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}
	must(gopacket.SerializeLayers(buf, opts, l...))
	return buf.Bytes()
}

// must is for calls that fail only in a wrong test.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

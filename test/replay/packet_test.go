// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// tuple is what a packet says of itself.
type tuple struct {
	proto    layers.IPProtocol
	src, dst netip.AddrPort
	reset    bool // a TCP packet that refuses a connection
	icmp     bool // an ICMP error; there are no ports then
}

// openingFrame is the first packet of a connection: a SYN, an INIT, or a datagram.
func openingFrame(t tuple, from, to net.HardwareAddr) ([]byte, error) {
	network, etherType := ipHeader(t)
	frame := []gopacket.SerializableLayer{
		&layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: etherType}, network.(gopacket.SerializableLayer),
	}
	switch t.proto {
	case layers.IPProtocolTCP:
		tcp := &layers.TCP{
			SrcPort: layers.TCPPort(t.src.Port()), DstPort: layers.TCPPort(t.dst.Port()), SYN: true, Seq: 1000, Window: 4096,
		}
		if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
			return nil, err
		}
		frame = append(frame, tcp)
	case layers.IPProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(t.src.Port()), DstPort: layers.UDPPort(t.dst.Port())}
		if err := udp.SetNetworkLayerForChecksum(network); err != nil {
			return nil, err
		}
		frame = append(frame, udp, gopacket.Payload("question"))
	default:
		frame = append(frame, gopacket.Payload(sctpInit(t.src.Port(), t.dst.Port())))
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, frame...)
	return buffer.Bytes(), err
}

func ipHeader(t tuple) (gopacket.NetworkLayer, layers.EthernetType) {
	src, dst := t.src.Addr().AsSlice(), t.dst.Addr().AsSlice()
	if t.src.Addr().Is4() {
		return &layers.IPv4{Version: 4, TTL: 64, Protocol: t.proto, SrcIP: src, DstIP: dst}, layers.EthernetTypeIPv4
	}
	return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: t.proto, SrcIP: src, DstIP: dst}, layers.EthernetTypeIPv6
}

// sctpInit is an SCTP packet that holds an INIT chunk (RFC 9260, 3.3.2).
func sctpInit(src, dst uint16) []byte {
	b := binary.BigEndian.AppendUint16(nil, src)
	b = binary.BigEndian.AppendUint16(b, dst)
	b = append(b, make([]byte, 8)...)               // verification tag, checksum
	b = append(b, 1, 0, 0, 20)                      // type, flags, length
	b = binary.BigEndian.AppendUint32(b, 4711)      // tag
	b = binary.BigEndian.AppendUint32(b, 65536)     // window
	b = binary.BigEndian.AppendUint32(b, 10<<16|10) // streams
	b = binary.BigEndian.AppendUint32(b, 1)         // TSN
	sum := crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli))
	binary.LittleEndian.PutUint32(b[8:], sum)
	return b
}

// tupleOf reads a frame.
func tupleOf(frame []byte) (t tuple, err error) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.NoCopy)
	var src, dst net.IP
	switch ip := p.NetworkLayer().(type) {
	case *layers.IPv4:
		t.proto, src, dst = ip.Protocol, ip.SrcIP, ip.DstIP
	case *layers.IPv6:
		t.proto, src, dst = ip.NextHeader, ip.SrcIP, ip.DstIP
	default:
		return t, fmt.Errorf("no IP packet: %x", frame)
	}
	var sport, dport uint16
	switch t.proto {
	case layers.IPProtocolICMPv4, layers.IPProtocolICMPv6:
		t.icmp = true
	default:
		// all three have the ports first
		ports := p.NetworkLayer().LayerPayload()
		sport, dport = binary.BigEndian.Uint16(ports), binary.BigEndian.Uint16(ports[2:])
	}
	if tcp, ok := p.TransportLayer().(*layers.TCP); ok {
		t.reset = tcp.RST
	}
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	t.src, t.dst = netip.AddrPortFrom(from.Unmap(), sport), netip.AddrPortFrom(to.Unmap(), dport)
	return t, nil
}

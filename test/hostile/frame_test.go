// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/test/topo"
)

// kind is one kind of packet of a flood.
type kind struct {
	name  string
	udp   bool
	flags func(*layers.TCP)
}

var kinds = []kind{
	{name: "SYN", flags: func(l *layers.TCP) { l.SYN = true }},
	{name: "ACK", flags: func(l *layers.TCP) { l.ACK, l.Ack = true, 0x12345678 }},
	{name: "SYN-ACK", flags: func(l *layers.TCP) { l.SYN, l.ACK, l.Ack = true, true, 0x12345678 }},
	{name: "FIN", flags: func(l *layers.TCP) { l.FIN, l.ACK, l.Ack = true, true, 0x12345678 }},
	{name: "RST", flags: func(l *layers.TCP) { l.RST = true }},
	{name: "UDP", udp: true},
}

// The source addresses of forged packets. 16 bits of the address are random in each packet, and so
// is the source port: 2^32 sources.
var (
	strangers4 = netip.MustParsePrefix("100.64.0.0/16")
	strangers6 = netip.MustParsePrefix("2001:db8:bad::/112")
)

const (
	ethHeader = 14
	ip4Header = 20
	ip6Header = 40
)

// forged makes the template of a packet from forged sources to a frontend, with valid checksums.
func forged(t *testing.T, k kind, from, to net.HardwareAddr, frontend netip.AddrPort) topo.Template {
	t.Helper()
	eth := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: layers.EthernetTypeIPv4}
	var network gopacket.SerializableLayer
	proto := layers.IPProtocolTCP
	if k.udp {
		proto = layers.IPProtocolUDP
	}
	v4 := frontend.Addr().Is4()
	if v4 {
		network = &layers.IPv4{Version: 4, TTL: 64, Id: 0xffff, Protocol: proto,
			SrcIP: strangers4.Addr().AsSlice(), DstIP: frontend.Addr().AsSlice()}
	} else {
		eth.EthernetType = layers.EthernetTypeIPv6
		network = &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto,
			SrcIP: strangers6.Addr().AsSlice(), DstIP: frontend.Addr().AsSlice()}
	}
	// The field that holds the complements of the address and of the port: in TCP the sequence
	// number, in UDP the data.
	var transport gopacket.SerializableLayer
	data := gopacket.Payload{}
	if k.udp {
		l := &layers.UDP{DstPort: layers.UDPPort(frontend.Port())}
		check(t, l.SetNetworkLayerForChecksum(network.(gopacket.NetworkLayer)))
		transport, data = l, gopacket.Payload("\xff\xff\xff\xffhostile!")
	} else {
		l := &layers.TCP{DstPort: layers.TCPPort(frontend.Port()), Seq: 0xffffffff, Window: 64240}
		k.flags(l)
		check(t, l.SetNetworkLayerForChecksum(network.(gopacket.NetworkLayer)))
		transport = l
	}
	buf := gopacket.NewSerializeBuffer()
	check(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		eth, network, transport, data))
	return topo.Template{Bytes: buf.Bytes(), Random: randomSources(v4, k.udp)}
}

// randomSources makes the lower half of the source address, and the source port, random.
func randomSources(v4, udp bool) []topo.Random {
	l4, addr := ethHeader+ip6Header, ethHeader+8+14
	if v4 {
		l4, addr = ethHeader+ip4Header, ethHeader+12+2
	}
	complements := l4 + 4 // TCP's sequence number
	if udp {
		complements = l4 + 8 // the data
	}
	address := topo.Random{At: []int{addr}, Complement: []int{complements}}
	if v4 {
		address.Complement = append(address.Complement, ethHeader+4) // for the checksum of the IP header: its identification
	}
	return []topo.Random{address, {At: []int{l4}, Complement: []int{complements + 2}}}
}

// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

var (
	broadcast  = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	unknownMAC = net.HardwareAddr{0, 0, 0, 0, 0, 0} // what an ARP request asks for
)

// allNodes is the multicast group of all hosts on a link (RFC 4291, 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// hopLimit is what hosts require of neighbour discovery (RFC 4861, 7.1).
const hopLimit = 255

// announcements are the frames that say that an address has the MAC of a device. For IPv4 they are a request and a
// reply, as some hosts read only one of them (RFC 5944, 4.6); for IPv6 an unsolicited advertisement (RFC 4861, 7.2.6).
func announcements(d Device, addr netip.Addr) ([][]byte, error) {
	if addr.Is6() {
		frame, err := advertisement(d, addr)
		return [][]byte{frame}, err
	}
	request, err := arpFrame(layers.ARPRequest, d.MAC, addr, unknownMAC, addr)
	if err != nil {
		return nil, err
	}
	reply, err := arpFrame(layers.ARPReply, d.MAC, addr, broadcast, addr)
	return [][]byte{request, reply}, err
}

// question is the frame that asks whether any host has an address, and changes no entry of theirs: an ARP probe (RFC
// 5227, 2.1.1), or a solicitation as for the detection of duplicates (RFC 4862, 5.4.2).
func question(d Device, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return arpFrame(layers.ARPRequest, d.MAC, netip.IPv4Unspecified(), unknownMAC, addr)
	}
	return ndFrame(d.MAC, netip.IPv6Unspecified(), solicitedNode(addr), layers.ICMPv6TypeNeighborSolicitation,
		&layers.ICMPv6NeighborSolicitation{TargetAddress: addr.AsSlice()})
}

// advertisement comes from the device's link-local address; without one, from the address itself (RFC 4861, 4.4).
func advertisement(d Device, addr netip.Addr) ([]byte, error) {
	source := d.LinkLocal
	if !source.IsValid() {
		source = addr
	}
	const override = 0x20
	return ndFrame(d.MAC, source, allNodes, layers.ICMPv6TypeNeighborAdvertisement, &layers.ICMPv6NeighborAdvertisement{
		Flags: override, TargetAddress: addr.AsSlice(),
		Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: d.MAC}},
	})
}

// arpFrame is for all hosts.
func arpFrame(operation uint16, from net.HardwareAddr, sender netip.Addr, mac net.HardwareAddr, target netip.Addr) ([]byte, error) {
	return frame(&layers.Ethernet{SrcMAC: from, DstMAC: broadcast, EthernetType: layers.EthernetTypeARP}, &layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: macLen, ProtAddressSize: 4,
		Operation: operation, SourceHwAddress: from, SourceProtAddress: sender.AsSlice(),
		DstHwAddress: mac, DstProtAddress: target.AsSlice(),
	})
}

// ndFrame is for a multicast group.
func ndFrame(from net.HardwareAddr, source, group netip.Addr, kind uint8, message gopacket.SerializableLayer) ([]byte, error) {
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: hopLimit, SrcIP: source.AsSlice(), DstIP: group.AsSlice()}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	if err := icmp.SetNetworkLayerForChecksum(ip); err != nil {
		return nil, err
	}
	return frame(&layers.Ethernet{SrcMAC: from, DstMAC: groupMAC(group), EthernetType: layers.EthernetTypeIPv6}, ip, icmp, message)
}

// frame puts the layers into one, which is padded to the least size of a frame.
func frame(all ...gopacket.SerializableLayer) ([]byte, error) {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, all...); err != nil {
		return nil, fmt.Errorf("making a frame: %w", err)
	}
	return buffer.Bytes(), nil
}

// solicitedNode is the multicast group by which hosts ask for an IPv6 address (RFC 4291, 2.7.1).
func solicitedNode(addr netip.Addr) netip.Addr {
	group, b := netip.MustParseAddr("ff02::1:ff00:0").As16(), addr.As16()
	copy(group[13:], b[13:])
	return netip.AddrFrom16(group)
}

// groupMAC is the MAC to which packets for a multicast group are sent (RFC 2464, 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

// claimIn returns the address that a host says in a frame that it has, and its MAC; nil: the frame says no such thing, or
// names a MAC that no host can have.
func claimIn(b []byte) (addr netip.Addr, mac net.HardwareAddr) {
	addr, mac = macIn(b)
	if len(mac) != macLen || mac[0]&1 != 0 || slices.Equal(mac, unknownMAC) {
		return addr, nil
	}
	return addr, mac
}

// macIn returns an address, and what a frame says that its MAC is. For IPv4 any ARP frame with the address as its sender
// says so (RFC 5227, 2.1.1), for IPv6 an advertisement.
func macIn(b []byte) (addr netip.Addr, mac net.HardwareAddr) {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.NoCopy)
	if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		addr, _ = netip.AddrFromSlice(arp.SourceProtAddress)
		return addr, net.HardwareAddr(arp.SourceHwAddress)
	}
	na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok {
		return netip.Addr{}, nil
	}
	if ip, ok := p.NetworkLayer().(*layers.IPv6); !ok || ip.HopLimit != hopLimit { // another network's
		return netip.Addr{}, nil
	}
	addr, _ = netip.AddrFromSlice(na.TargetAddress)
	for _, o := range na.Options {
		if o.Type == layers.ICMPv6OptTargetAddress && len(o.Data) == macLen {
			return addr, net.HardwareAddr(o.Data)
		}
	}
	if eth, ok := p.LinkLayer().(*layers.Ethernet); ok {
		return addr, eth.SrcMAC
	}
	return netip.Addr{}, nil
}

// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/mdlayher/arp"
	"github.com/mdlayher/ethernet"
	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// allNodes is the multicast group of all hosts on a link (RFC 4291, 2.7.1).
var allNodes = netip.MustParseAddr("ff02::1")

// unknownMAC is what an ARP request asks for.
var unknownMAC = net.HardwareAddr{0, 0, 0, 0, 0, 0}

// announcements are the frames that say that an address has the MAC of a device. For IPv4 they are a request and a
// reply, as some hosts read only one of them (RFC 5944, 4.6); for IPv6 an unsolicited advertisement (RFC 4861, 7.2.6).
func announcements(d Device, addr netip.Addr) ([][]byte, error) {
	if addr.Is6() {
		frame, err := advertisement(d, addr)
		return [][]byte{frame}, err
	}
	request, err := arpFrame(arp.OperationRequest, d.MAC, addr, unknownMAC, addr)
	if err != nil {
		return nil, err
	}
	reply, err := arpFrame(arp.OperationReply, d.MAC, addr, ethernet.Broadcast, addr)
	return [][]byte{request, reply}, err
}

// question is the frame that asks whether any host has an address, and says nothing about who asks: an ARP probe (RFC
// 5227, 2.1.1), or a solicitation as for the detection of duplicates (RFC 4862, 5.4.2).
func question(d Device, addr netip.Addr) ([]byte, error) {
	if addr.Is4() {
		return arpFrame(arp.OperationRequest, d.MAC, netip.IPv4Unspecified(), unknownMAC, addr)
	}
	group, err := ndp.SolicitedNodeMulticast(addr)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", addr, err)
	}
	return ndFrame(d.MAC, netip.IPv6Unspecified(), group, &ndp.NeighborSolicitation{TargetAddress: addr})
}

// arpFrame is for all hosts.
func arpFrame(op arp.Operation, from net.HardwareAddr, sender netip.Addr, mac net.HardwareAddr, target netip.Addr) ([]byte, error) {
	p, err := arp.NewPacket(op, from, sender, mac, target)
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", target, err)
	}
	b, err := p.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("address %s: %w", target, err)
	}
	return frame(ethernet.Broadcast, from, ethernet.EtherTypeARP, b)
}

// advertisement comes from the device's link-local address; without one, from the address itself (RFC 4861, 4.4).
func advertisement(d Device, addr netip.Addr) ([]byte, error) {
	source := d.LinkLocal
	if !source.IsValid() {
		source = addr
	}
	return ndFrame(d.MAC, source, allNodes, &ndp.NeighborAdvertisement{
		Override: true, TargetAddress: addr,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: d.MAC}},
	})
}

// hopLimit is what hosts require of neighbour discovery (RFC 4861, 7.1).
const hopLimit = 255

// ndFrame is for a multicast group.
func ndFrame(from net.HardwareAddr, source, group netip.Addr, m ndp.Message) ([]byte, error) {
	body, err := ndp.MarshalMessageChecksum(m, source, group)
	if err != nil {
		return nil, fmt.Errorf("making a message from %s to %s: %w", source, group, err)
	}
	b := []byte{6 << 4, 0, 0, 0, 0, 0, unix.IPPROTO_ICMPV6, hopLimit}
	binary.BigEndian.PutUint16(b[4:], uint16(len(body)))
	b = append(append(b, source.AsSlice()...), group.AsSlice()...)
	return frame(groupMAC(group), from, ethernet.EtherTypeIPv6, append(b, body...))
}

// groupMAC is the MAC to which packets for a multicast group are sent (RFC 2464, 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
}

func frame(to, from net.HardwareAddr, kind ethernet.EtherType, payload []byte) ([]byte, error) {
	b, err := (&ethernet.Frame{Destination: to, Source: from, EtherType: kind, Payload: payload}).MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("making a frame: %w", err)
	}
	return b, nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"net/netip"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// end is one side of a tuple: that of flow 0. The address of flow i is i >> PortBits further on if
// addrs is set, and its port is the rest of i further on if ports is set.
type end struct {
	netip.AddrPort
	addrs, ports bool
}

func (e end) of(i uint32) netip.AddrPort {
	a, port := e.Addr(), e.Port()
	if e.addrs {
		a = further(a, i>>probe.PortBits)
	}
	if e.ports {
		port += uint16(i & (1<<probe.PortBits - 1))
	}
	return netip.AddrPortFrom(a, port)
}

func further(a netip.Addr, by uint32) netip.Addr {
	b := a.AsSlice()
	low := b[len(b)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+by)
	next, _ := netip.AddrFromSlice(b)
	return next
}

// flows are the packets of one direction of many flows, with their rewrite.
type flows struct {
	proto        uint8
	src, dst     end // as they come in
	toSrc, toDst end // as they go out
	flags        uint16
	zone         bpf.Zone // where they are seen
}

// family is the suffix of maps and programs for these packets: "4" or "6".
func (f flows) family() string {
	if f.src.Addr().Is6() {
		return "6"
	}
	return "4"
}

// mirror returns the packets of the other direction, seen in a zone.
func (f flows) mirror(zone bpf.Zone) flows {
	return flows{proto: f.proto, src: f.toDst, dst: f.toSrc, toSrc: f.dst, toDst: f.src, zone: zone}
}

// frame returns the packet of flow 0, complete and with right checksums.
func (f flows) frame(srcMAC, dstMAC []byte) ([]byte, error) {
	var ip gopacket.SerializableLayer
	var network gopacket.NetworkLayer
	ethertype := layers.EthernetTypeIPv4
	src, dst := f.src.of(0), f.dst.of(0)
	if src.Addr().Is4() {
		v4 := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocol(f.proto), SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		ip, network = v4, v4
	} else {
		ethertype = layers.EthernetTypeIPv6
		v6 := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocol(f.proto), SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		ip, network = v6, v6
	}
	var l4 gopacket.SerializableLayer
	size := probe.Frame - 14 - 20
	if src.Addr().Is6() {
		size -= 20
	}
	if f.proto == unix.IPPROTO_UDP {
		udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
		if err := udp.SetNetworkLayerForChecksum(network); err != nil {
			return nil, err
		}
		l4, size = udp, size-8
	} else {
		tcp := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), ACK: true, Seq: 1, Ack: 1, Window: 1024}
		if err := tcp.SetNetworkLayerForChecksum(network); err != nil {
			return nil, err
		}
		l4, size = tcp, size-20
	}
	buffer := gopacket.NewSerializeBuffer()
	err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		&layers.Ethernet{SrcMAC: srcMAC, DstMAC: dstMAC, EthernetType: ethertype}, ip, l4, gopacket.Payload(make([]byte, size)))
	if err == nil && len(buffer.Bytes()) != probe.Frame {
		err = fmt.Errorf("a frame of %d bytes", len(buffer.Bytes()))
	}
	return buffer.Bytes(), err
}

// stride is the distance from one packet's flow to the next one's. It is odd, so that as many
// packets as there are flows, a power of two, visit each flow once.
const stride = 0x9e3779b1

// drive makes a driver send packets of the first count flows, a power of two. They differ by one
// address and one port.
func (f flows) drive(frame []byte, count uint32) probe.Drive {
	ip := uint32(14)
	l4 := ip + 20
	d := probe.Drive{Mask: count - 1, Stride: stride, AddrOffset: ip + 12, IpCheckOffset: ip + 10}
	if f.src.Addr().Is6() {
		l4, d.AddrOffset, d.IpCheckOffset = ip+40, ip+8+12, 0
	}
	d.PortOffset, d.L4CheckOffset = l4, l4+16
	if f.proto == unix.IPPROTO_UDP {
		d.L4CheckOffset = l4 + 6
	}
	raw := f.src.Addr().AsSlice()
	if f.dst.addrs {
		d.AddrOffset += uint32(len(raw))
		raw = f.dst.Addr().AsSlice()
	}
	d.Addr = binary.BigEndian.Uint32(raw[len(raw)-4:])
	d.Port = uint32(f.src.Port())
	if f.dst.ports {
		d.PortOffset += 2
		d.Port = uint32(f.dst.Port())
	}
	for i := range d.Frame {
		d.Frame[i] = binary.NativeEndian.Uint64(frame[8*i:])
	}
	return d
}

// sweep is like drive, for flows that differ by their destination: once all have had a packet, the
// next packets have another source.
func (f flows) sweep(frame []byte, count uint32) probe.Drive {
	d := f.drive(frame, count)
	raw := f.src.Addr().AsSlice()
	d.ClientOffset = d.AddrOffset - uint32(len(raw))
	d.Client = binary.BigEndian.Uint32(raw[len(raw)-4:])
	d.ClientShift = uint32(bits.TrailingZeros32(count))
	return d
}

func word(a netip.Addr) uint32 { return binary.NativeEndian.Uint32(a.AsSlice()) }

// words returns the words of an address; IPv4 has one.
func words(a netip.Addr) (w [4]uint32) {
	b := a.AsSlice()
	for i := range len(b) / 4 {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func netPort(port uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, port))
}

// target is the rewrite of flow 0, in the datapath's form.
func (f flows) target() bpf.Tuple {
	src, dst := f.toSrc.of(0), f.toDst.of(0)
	return bpf.Tuple{Saddr: bpf.Addr{Word: words(src.Addr())}, Daddr: bpf.Addr{Word: words(dst.Addr())},
		Sport: netPort(src.Port()), Dport: netPort(dst.Port()), Proto: f.proto, Zone: uint8(f.zone)}
}

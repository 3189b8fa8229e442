// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"cmp"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestForgedICMPErrors: forged errors, about existing flows and about others, change no record, and
// break no connection.
func TestForgedICMPErrors(t *testing.T) {
	s, laptop := newExhausted(t)
	for _, v := range []service{local, remote} {
		for _, v6 := range bothFamilies {
			stream := s.open(t, laptop, v, v6)
			exchange(t, stream)
			to := s.nodePort(v, echoDigit, v6)
			client := s.clientOf(t, to)
			before, counted := s.records(t), s.counters(t)
			for _, quoted := range [][2]netip.AddrPort{
				{to, client}, // a packet that the node sent the client
				{to, netip.AddrPortFrom(client.Addr(), client.Port()^1)},
				{client, to}, // a packet that the client sent, as if it had come back
			} {
				for _, frame := range s.icmpErrors(t, quoted[0], quoted[1]) {
					s.inject(t, frame)
				}
			}
			if diff := gocmp.Diff(before, s.records(t), cmpopts.IgnoreFields(maps.Flow{}, "LastSeen"),
				gocmp.Comparer(func(a, b netip.AddrPort) bool { return a == b }), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("%s, %s: forged errors changed records (-before +after):\n%s", v.app, familyName(v6), diff)
			}
			if n := total(s.counters(t).Since(counted), bpf.VerdictICMPError); n == 0 {
				t.Errorf("%s, %s: no error was taken for one about the flow", v.app, familyName(v6))
			}
			exchange(t, stream)
		}
	}
}

// clientOf finds the established client of a frontend.
func (s *setup) clientOf(t *testing.T, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	for _, f := range s.records(t) {
		if f.Key.Dst == to && f.Confirmed() {
			return f.Key.Src
		}
	}
	t.Fatalf("%s has no client", to)
	return netip.AddrPort{}
}

// records returns all records, in a fixed order.
func (s *setup) records(t *testing.T) (all []maps.Flow) {
	t.Helper()
	p, err := loader.Open(s.agent.PinDir)
	check(t, err)
	defer p.Close()
	for _, family := range maps.Families {
		check(t, maps.Flows(p, family, func(f maps.Flow) bool {
			all = append(all, f)
			return true
		}))
	}
	slices.SortFunc(all, func(a, b maps.Flow) int {
		return cmp.Or(a.Key.Src.Compare(b.Key.Src), a.Key.Dst.Compare(b.Key.Dst), int(a.Key.Proto)-int(b.Key.Proto))
	})
	return all
}

// icmpErrors are errors of all kinds about a TCP packet.
func (s *setup) icmpErrors(t *testing.T, src, dst netip.AddrPort) (frames []topo.Template) {
	t.Helper()
	inner := &layers.TCP{SrcPort: layers.TCPPort(src.Port()), DstPort: layers.TCPPort(dst.Port()), ACK: true, Seq: 1}
	if src.Addr().Is4() {
		for _, code := range []layers.ICMPv4TypeCode{
			layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodeFragmentationNeeded),
			layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort),
			layers.CreateICMPv4TypeCode(layers.ICMPv4TypeTimeExceeded, layers.ICMPv4CodeTTLExceeded),
		} {
			ip := func(src, dst netip.Addr, proto layers.IPProtocol) *layers.IPv4 {
				return &layers.IPv4{Version: 4, TTL: 64, Protocol: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
			}
			outer := ip(s.Laptop.IP4, s.node.IP4, layers.IPProtocolICMPv4)
			quoted := ip(src.Addr(), dst.Addr(), layers.IPProtocolTCP)
			check(t, inner.SetNetworkLayerForChecksum(quoted))
			frames = append(frames, s.frame(t, layers.EthernetTypeIPv4, outer,
				&layers.ICMPv4{TypeCode: code, Seq: 576}, quoted, inner))
		}
		return frames
	}
	for _, code := range []layers.ICMPv6TypeCode{
		layers.CreateICMPv6TypeCode(layers.ICMPv6TypePacketTooBig, 0),
		layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable),
		layers.CreateICMPv6TypeCode(layers.ICMPv6TypeTimeExceeded, layers.ICMPv6CodeHopLimitExceeded),
	} {
		ip := func(src, dst netip.Addr, proto layers.IPProtocol) *layers.IPv6 {
			return &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: proto, SrcIP: src.AsSlice(), DstIP: dst.AsSlice()}
		}
		outer := ip(s.Laptop.IP6, s.node.IP6, layers.IPProtocolICMPv6)
		quoted := ip(src.Addr(), dst.Addr(), layers.IPProtocolTCP)
		check(t, inner.SetNetworkLayerForChecksum(quoted))
		icmp := &layers.ICMPv6{TypeCode: code}
		check(t, icmp.SetNetworkLayerForChecksum(outer))
		frames = append(frames, s.frame(t, layers.EthernetTypeIPv6, outer, icmp, gopacket.Payload{0, 0, 5, 0}, quoted, inner))
	}
	return frames
}

func (s *setup) frame(t *testing.T, ethertype layers.EthernetType, l ...gopacket.SerializableLayer) topo.Template {
	t.Helper()
	from, err := s.Laptop.MAC("eth0")
	check(t, err)
	to, err := s.node.MAC("eth0")
	check(t, err)
	buf := gopacket.NewSerializeBuffer()
	eth := &layers.Ethernet{SrcMAC: from, DstMAC: to, EthernetType: ethertype}
	check(t, gopacket.SerializeLayers(buf, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true},
		append([]gopacket.SerializableLayer{eth}, l...)...))
	return topo.Template{Bytes: buf.Bytes()}
}

// inject sends one frame to the node, and waits until its datapath has seen it.
func (s *setup) inject(t *testing.T, frame topo.Template) {
	t.Helper()
	in, err := s.Link.Injector(s.node.BridgePort(), frame)
	check(t, err)
	defer in.Close()
	seen := func() (sum uint64) {
		for _, packets := range s.counters(t) {
			sum += packets
		}
		return sum
	}
	before := seen()
	check(t, in.Send(1))
	awaitTrue(t, "the frame", func() bool { return seen() > before })
}

// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

// TestPacket: gopacket reads in the packet what was asked for.
func TestPacket(t *testing.T) {
	for _, q := range []Question{
		{To: netip.MustParseAddrPort("192.0.2.1:80"), From: netip.MustParseAddrPort("192.0.2.2:4000"), Proto: "tcp", Flags: []string{"syn", "ack"}, TTL: 3, Size: 1400},
		{To: netip.MustParseAddrPort("[2001:db8::1]:80"), From: netip.MustParseAddrPort("[2001:db8::2]:4000"), Proto: "tcp", Flags: []string{"fin"}},
		{To: netip.MustParseAddrPort("192.0.2.1:53"), From: netip.MustParseAddrPort("192.0.2.2:4000"), Proto: "udp", Size: 100},
		{To: netip.MustParseAddrPort("[2001:db8::1]:9"), From: netip.MustParseAddrPort("[2001:db8::2]:4000"), Proto: "sctp", Flags: []string{"syn"}},
		{To: netip.MustParseAddrPort("192.0.2.1:0"), From: netip.MustParseAddrPort("192.0.2.2:0"), Proto: "icmp"},
		{To: netip.MustParseAddrPort("[2001:db8::1]:0"), From: netip.MustParseAddrPort("[2001:db8::2]:0"), Proto: "icmp"},
	} {
		if err := q.Check(); err != nil {
			t.Fatal(err)
		}
		raw := q.packet()
		if want := max(q.Size, q.headers()); len(raw) != want {
			t.Errorf("%+v: %d bytes, want %d", q, len(raw), want)
		}
		first, ttl := gopacket.LayerType(layers.LayerTypeIPv4), max(q.TTL, 64)
		if q.TTL != 0 {
			ttl = q.TTL
		}
		if q.To.Addr().Is6() {
			first = layers.LayerTypeIPv6
		}
		p := gopacket.NewPacket(raw, first, gopacket.Default)
		switch ip := p.NetworkLayer().(type) {
		case *layers.IPv4:
			checkEnds(t, q, ip.SrcIP, ip.DstIP, ip.TTL, ttl, int(ip.Length), len(raw))
		case *layers.IPv6:
			checkEnds(t, q, ip.SrcIP, ip.DstIP, ip.HopLimit, ttl, int(ip.Length)+40, len(raw))
		default:
			t.Fatalf("%+v is no IP packet: %s", q, p)
		}
		checkTransport(t, q, p)
	}
}

func checkEnds(t *testing.T, q Question, src, dst []byte, ttl, wantTTL uint8, length, want int) {
	t.Helper()
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	if from != q.From.Addr() || to != q.To.Addr() || ttl != wantTTL || length != want {
		t.Errorf("%+v: %s to %s, TTL %d, %d bytes of %d", q, from, to, ttl, length, want)
	}
}

func checkTransport(t *testing.T, q Question, p gopacket.Packet) {
	t.Helper()
	ok := false
	switch q.Proto {
	case "tcp":
		l, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
		syn, fin := q.Flags[0] == "syn", q.Flags[0] == "fin"
		ok = l != nil && uint16(l.SrcPort) == q.From.Port() && uint16(l.DstPort) == q.To.Port() && l.SYN == syn && l.ACK == syn && l.FIN == fin
	case "udp":
		l, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
		ok = l != nil && uint16(l.SrcPort) == q.From.Port() && uint16(l.DstPort) == q.To.Port() && int(l.Length) == q.Size-20
	case "sctp":
		l, _ := p.Layer(layers.LayerTypeSCTP).(*layers.SCTP)
		ok = l != nil && uint16(l.SrcPort) == q.From.Port() && uint16(l.DstPort) == q.To.Port() && l.Payload[0] == byte(layers.SCTPChunkTypeInit)
	case "icmp":
		l4, _ := p.Layer(layers.LayerTypeICMPv4).(*layers.ICMPv4)
		l6, _ := p.Layer(layers.LayerTypeICMPv6).(*layers.ICMPv6)
		ok = l4 != nil && l4.TypeCode.Type() == layers.ICMPv4TypeEchoRequest || l6 != nil && l6.TypeCode.Type() == layers.ICMPv6TypeEchoRequest
	}
	if !ok {
		t.Errorf("%+v: %s", q, p)
	}
}

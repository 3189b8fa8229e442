// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
)

func parse(frame []byte) gopacket.Packet {
	return gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
}

// sound fails the test if any checksum of a frame is wrong (IP's, TCP's, UDP's
// or ICMP's), or if the frame can't be parsed.
func sound(t *testing.T, frame []byte) {
	t.Helper()
	p := parse(frame)
	if l := p.Layer(layers.LayerTypeSCTP); l != nil {
		checkSCTP(t, append(l.LayerContents(), l.LayerPayload()...))
	} else if e := p.ErrorLayer(); e != nil {
		t.Errorf("malformed: %v\n% x", e.Error(), frame)
		return
	}
	for _, l := range p.Layers() {
		if l, ok := l.(interface {
			SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
		}); ok {
			must(l.SetNetworkLayerForChecksum(p.NetworkLayer()))
		}
	}
	err, wrong := p.VerifyChecksums()
	if err != nil {
		t.Errorf("checksums can't be verified: %v", err)
	}
	for _, w := range wrong {
		t.Errorf("%v checksum is %#x, want %#x\n%v", w.Layer.LayerType(), w.Actual, w.Correct, p)
	}
}

// same fails the test if two frames differ in any byte, and shows where.
func same(t *testing.T, want, got []byte) {
	t.Helper()
	if bytes.Equal(want, got) {
		return
	}
	diff := cmp.Diff(lines(want), lines(got))
	t.Errorf("wrong packet (-want +got):\n%s", diff)
}

// addresses reads a frame's source and destination.
func addresses(frame []byte) (src, dst netip.AddrPort) {
	p := parse(frame)
	var sport, dport uint16
	switch l := p.TransportLayer().(type) {
	case *layers.TCP:
		sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.UDP:
		sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
	case *layers.SCTP:
		sport, dport = uint16(l.SrcPort), uint16(l.DstPort)
	}
	if p.TransportLayer() == nil { // a fragment has none
		l4 := p.NetworkLayer().LayerPayload()
		if l := p.Layer(layers.LayerTypeIPv6Fragment); l != nil {
			l4 = l.LayerPayload()
		}
		sport, dport = binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:])
	}
	flow := p.NetworkLayer().NetworkFlow()
	a, _ := netip.AddrFromSlice(flow.Src().Raw())
	b, _ := netip.AddrFromSlice(flow.Dst().Raw())
	return at(a, sport), at(b, dport)
}

func lines(frame []byte) []string { return strings.Split(parse(frame).Dump(), "\n") }

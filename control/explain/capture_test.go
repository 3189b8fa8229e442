// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
)

// packet4 is an IPv4 packet from 192.0.2.7.
var packet4 = []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 192, 0, 2, 7, 192, 0, 2, 8}

// cookedHeader is what tcpdump writes before an IPv4 packet, with the EtherType at its place.
func cookedHeader(size, protocol int) []byte {
	b := make([]byte, size)
	b[protocol] = 8
	return append(b, packet4...)
}

func pcap(t *testing.T, kind layers.LinkType, data ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w := pcapgo.NewWriter(&b)
	if err := w.WriteFileHeader(65536, kind); err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		if err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(0, 0), CaptureLength: len(d), Length: len(d)}, d); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func pcapng(t *testing.T, kind layers.LinkType, data ...[]byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := pcapgo.NewNgWriter(&b, kind)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range data {
		err := w.WritePacket(gopacket.CaptureInfo{Timestamp: time.Unix(0, 0), CaptureLength: len(d), Length: len(d)}, d)
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCapture: the IP packet is found behind each link layer that is known.
func TestCapture(t *testing.T) {
	arp := append(make([]byte, 12), 8, 6, 0, 1)
	for _, c := range []struct {
		name string
		kind layers.LinkType
		data []byte
		ip   bool
	}{
		{"ethernet", layers.LinkTypeEthernet, append(append(make([]byte, 12), 8, 0), packet4...), true},
		{"no IP", layers.LinkTypeEthernet, arp, false},
		{"raw", layers.LinkTypeRaw, packet4, true},
		{"cooked", layers.LinkTypeLinuxSLL, cookedHeader(sllHeader, sllProtocol), true},
		{"cooked 2", layers.LinkTypeLinuxSLL2, cookedHeader(sll2Header, sll2Protocol), true},
	} {
		for format, file := range map[string][]byte{"pcap": pcap(t, c.kind, c.data, c.data), "pcapng": pcapng(t, c.kind, c.data, c.data)} {
			number := 0
			for got, err := range Capture(bytes.NewReader(file)) {
				if err != nil {
					t.Fatalf("%s, %s: %v", c.name, format, err)
				}
				number++
				from, ok := got.source()
				if got.Number != number || ok != c.ip || ok && (from != netip.MustParseAddr("192.0.2.7") || !bytes.Equal(got.Packet, packet4)) {
					t.Errorf("%s, %s: packet %d from %v (%t): % x", c.name, format, got.Number, from, ok, got.Packet)
				}
			}
			if number != 2 {
				t.Errorf("%s, %s: %d packets, want 2", c.name, format, number)
			}
		}
	}
}

// TestCaptureCut: a file that ends within a packet is an error, wherever that is; the packets before it are not.
func TestCaptureCut(t *testing.T) {
	for format, file := range map[string][]byte{"pcap": pcap(t, layers.LinkTypeRaw, packet4, packet4), "pcapng": pcapng(t, layers.LinkTypeRaw, packet4, packet4)} {
		last := len(file) - len(packet4) - 16 // in the second packet's header, of either format
		for _, size := range []int{len(file) - 1, len(file) - len(packet4), last + 4} {
			packets := 0
			var failed error
			for _, err := range Capture(bytes.NewReader(file[:size])) {
				if failed = err; err == nil {
					packets++
				}
			}
			if packets != 1 || failed == nil || !strings.Contains(failed.Error(), "packet 2: the file is cut short") {
				t.Errorf("%s cut at %d of %d: %d packets, then %v", format, size, len(file), packets, failed)
			}
		}
	}
}

// FuzzCapture: no file makes the reader fail otherwise than with an error.
func FuzzCapture(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0})
	f.Add([]byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0})
	f.Fuzz(func(t *testing.T, file []byte) {
		packets := 0
		for c, err := range Capture(bytes.NewReader(file)) {
			if err != nil {
				return
			}
			c.source()
			c.frameFor(device{mac: strangerMAC})
			if packets++; packets > len(file) {
				t.Fatalf("%d packets in %d bytes", packets, len(file))
			}
		}
	})
}

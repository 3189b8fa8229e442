// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"bytes"
	"net"
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"
)

// TestClaimIn: a frame names a host by a MAC that a host can have. Garbage ends no probe, of which it would be the answer.
func TestClaimIn(t *testing.T) {
	host := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	claim := func(mac net.HardwareAddr, addr netip.Addr) []byte {
		t.Helper()
		if addr.Is6() {
			frame, err := advertisement(Device{MAC: mac}, addr)
			must(t, err)
			return frame
		}
		frame, err := arpFrame(layers.ARPReply, mac, addr, broadcast, addr)
		must(t, err)
		return frame
	}
	short := claim(host, vip4)
	short[14+4] = 0 // the length of a hardware address
	copy(short[14+8:], vip4.AsSlice())
	for _, c := range []struct {
		what  string
		frame []byte
		addr  netip.Addr
		want  net.HardwareAddr
	}{
		{"a claim", claim(host, vip4), vip4, host},
		{"an advertisement", claim(host, vip6), vip6, host},
		{"of another address", claim(host, vip4), netip.MustParseAddr("192.168.1.9"), nil},
		{"without a hardware address", short, vip4, nil},
		{"of no MAC", claim(unknownMAC, vip4), vip4, nil},
		{"of the MAC of all", claim(broadcast, vip4), vip4, nil},
		{"an advertisement of no MAC", claim(unknownMAC, vip6), vip6, nil},
		{"an advertisement of the MAC of all", claim(broadcast, vip6), vip6, nil},
	} {
		addr, got := claimIn(c.frame)
		if addr != c.addr {
			got = nil
		}
		if !bytes.Equal(got, c.want) || (got == nil) != (c.want == nil) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
		for n := range c.frame { // cut short
			claimIn(c.frame[:n])
		}
	}
}

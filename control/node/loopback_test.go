// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
)

// TestHoldOnLoopback: the device has those of our addresses that are wanted, and those of others.
func TestHoldOnLoopback(t *testing.T) {
	n := netnstest.New(t)
	for _, conf := range []string{"all", "default", "lo"} {
		must(t, os.WriteFile("/proc/sys/net/ipv6/conf/"+conf+"/disable_ipv6", []byte("0"), 0))
	}
	lo := n.Link("lo")
	must(t, netlink.LinkSetUp(lo))
	n.AddAddr(lo, "169.254.20.10/32") // of NodeLocal DNSCache, say
	ours := []netip.Addr{netip.MustParseAddr("169.254.87.53"), netip.MustParseAddr("fd77::53")}
	for _, step := range []struct {
		wanted, taken []netip.Addr
		want          string
	}{
		{ours[:1], nil, "127.0.0.1 169.254.20.10 169.254.87.53 ::1"},
		{ours, nil, "127.0.0.1 169.254.20.10 169.254.87.53 ::1 fd77::53"},
		{ours, nil, "127.0.0.1 169.254.20.10 169.254.87.53 ::1 fd77::53"},
		{ours[1:], ours[:1], "127.0.0.1 169.254.20.10 ::1 fd77::53"},
		{nil, ours[1:], "127.0.0.1 169.254.20.10 ::1"},
		{nil, nil, "127.0.0.1 169.254.20.10 ::1"},
	} {
		taken, err := HoldOnLoopback(ours, step.wanted)
		must(t, err)
		if !slices.Equal(taken, step.taken) {
			t.Errorf("%v wanted: %v taken, want %v", step.wanted, taken, step.taken)
		}
		has, err := netlink.AddrList(lo, netlink.FAMILY_ALL)
		must(t, err)
		var all []string
		for _, a := range has {
			all = append(all, a.IP.String())
			if a.IP.String() == "169.254.87.53" && a.Scope != int(netlink.SCOPE_HOST) || a.IP.String() == "fd77::53" && a.Flags&unix.IFA_F_DEPRECATED == 0 {
				t.Errorf("%s may be the source for other hosts: scope %d, flags %#x", a.IP, a.Scope, a.Flags)
			}
		}
		want := strings.Fields(step.want)
		slices.Sort(want)
		slices.Sort(all)
		if !slices.Equal(all, want) {
			t.Errorf("%v wanted: lo has %q, want %q", step.wanted, all, want)
		}
	}
}

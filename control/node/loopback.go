// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"math"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// HoldOnLoopback gives the loopback device those of our addresses that are wanted, and takes the others from it. It
// returns what it has taken. No program chooses such an address as its source by itself.
func HoldOnLoopback(ours, wanted []netip.Addr) (taken []netip.Addr, err error) {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("device lo: %w", err)
	}
	has, err := listAddrs(lo.Attrs().Index)
	if err != nil {
		return nil, err
	}
	for _, a := range ours {
		holds := slices.ContainsFunc(has[lo.Attrs().Index], func(h address) bool { return h.ip == a })
		switch want := slices.Contains(wanted, a); {
		case want && !holds:
			if err := netlink.AddrAdd(lo, hostAddress(a)); err != nil {
				return taken, fmt.Errorf("adding the address %s to the device lo: %w", a, err)
			}
		case !want && holds:
			if err := netlink.AddrDel(lo, hostAddress(a)); err != nil {
				return taken, fmt.Errorf("deleting the address %s from the device lo: %w", a, err)
			}
			taken = append(taken, a)
		}
	}
	return taken, nil
}

// hostAddress is valid on this host only (IPv4), or for as long as it is there but deprecated (IPv6): the kernel chooses
// neither as a source for other hosts.
func hostAddress(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: netlink.NewIPNet(a.AsSlice())}
	if a.Is4() {
		addr.Scope = int(netlink.SCOPE_HOST)
		return addr
	}
	addr.Flags = unix.IFA_F_NODAD | unix.IFA_F_NOPREFIXROUTE
	addr.ValidLft, addr.PreferedLft = math.MaxUint32, 0
	return addr
}

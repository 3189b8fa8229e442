// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

const (
	// podBits4 and podBits6 are the longest prefixes of ranges of pods: where each pod has a route of its own, the
	// next pods' routes mostly are in the ranges that are known.
	podBits4, podBits6 = 24, 64
	// maxDeviceRanges bounds what is kept of one device's routes.
	maxDeviceRanges = 64
)

// onLink returns the range of a route to hosts on a device, as wide as ranges of pods are.
func onLink(dst *net.IPNet, hop *netlink.NexthopInfo) (netip.Prefix, bool) {
	if isDefault(dst) || isOfEachDevice(dst) || isByGateway(dst, hop) {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(dst.IP)
	if !ok {
		return netip.Prefix{}, false
	}
	addr = addr.Unmap()
	longest := podBits6
	if addr.Is4() {
		longest = podBits4
	}
	ones, _ := dst.Mask.Size()
	prefix, err := addr.Prefix(min(ones, longest))
	return prefix, err == nil
}

// addRange adds a range to others that do not hold it.
func addRange(ranges []netip.Prefix, added netip.Prefix) []netip.Prefix {
	if holds(ranges, added) {
		return ranges
	}
	ranges = append(slices.DeleteFunc(ranges, func(p netip.Prefix) bool { return within(p, added) }), added)
	if len(ranges) > 2*maxDeviceRanges {
		return cover(ranges, maxDeviceRanges)
	}
	return ranges
}

// within reports whether a range is part of another.
func within(part, whole netip.Prefix) bool {
	return part.Bits() >= whole.Bits() && whole.Contains(part.Addr())
}

func holds(ranges []netip.Prefix, p netip.Prefix) bool {
	return slices.ContainsFunc(ranges, func(r netip.Prefix) bool { return within(p, r) })
}

// cover returns ranges that hold all of the given ones, at most so many of each family, in order. While there are
// more, the two neighbours become one whose common range is the smallest.
func cover(ranges []netip.Prefix, most int) []netip.Prefix {
	var v4, v6 []netip.Prefix
	for _, p := range ranges {
		if p.Addr().Is4() {
			v4 = append(v4, p)
		} else {
			v6 = append(v6, p)
		}
	}
	return slices.Concat(coverOne(v4, most), coverOne(v6, most))
}

func coverOne(ranges []netip.Prefix, most int) []netip.Prefix {
	slices.SortFunc(ranges, netip.Prefix.Compare)
	var out []netip.Prefix
	for _, p := range ranges { // a range comes before its parts
		if !holds(out, p) {
			out = append(out, p)
		}
	}
	for len(out) > most {
		best := 0
		for i := range len(out) - 1 {
			if common(out[i], out[i+1]).Bits() > common(out[best], out[best+1]).Bits() {
				best = i
			}
		}
		out = slices.Replace(out, best, best+2, common(out[best], out[best+1]))
	}
	return out
}

// common is the smallest range that holds two of one family.
func common(a, b netip.Prefix) netip.Prefix {
	for bits := min(a.Bits(), b.Bits()); ; bits-- {
		p, err := a.Addr().Prefix(bits)
		if err != nil || p.Contains(b.Addr()) {
			return p
		}
	}
}

// isOfPods reports whether pods are behind a device of the role.
func isOfPods(role status.Role) bool { return role == status.RolePod || role == status.RolePodBridge }

// syncPodRanges writes what routes by pods' devices lead to.
func (d *Devices) syncPodRanges(withRole []deviceInRole) error {
	var all []netip.Prefix
	for _, f := range withRole {
		if isOfPods(f.role) {
			all = append(all, f.routes.onLink...)
		}
	}
	ranges := cover(all, maps.MaxPodRanges)
	if d.writtenRanges != nil && slices.Equal(ranges, d.writtenRanges) {
		return nil
	}
	if err := d.podRanges.Set(ranges); err != nil {
		return err
	}
	d.writtenRanges = append([]netip.Prefix{}, ranges...) // not nil, also where there are none
	return nil
}

// repairPodRanges corrects what others have changed in the map.
func (d *Devices) repairPodRanges(found map[string]int) error {
	if d.writtenRanges == nil {
		return nil
	}
	if same, err := d.podRanges.Has(d.writtenRanges); same || err != nil {
		return err
	}
	if err := d.podRanges.Set(d.writtenRanges); err != nil {
		return err
	}
	found["pod_ranges"]++
	return nil
}

// LeadsToNewPods reports whether a new route may lead to pods that are in none of the ranges that were last written.
func (d *Devices) LeadsToNewPods(dst *net.IPNet, hop *netlink.NexthopInfo) bool {
	to, ok := onLink(dst, hop)
	if !ok {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, read := d.kernel.links[hop.LinkIndex]
	return (!read || isOfPods(d.status[hop.LinkIndex].Role)) && !holds(d.writtenRanges, to)
}

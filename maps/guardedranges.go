// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// guardedRanges is a map of a few ranges that are replaced all at once, see struct cluster_guard.
type guardedRanges struct {
	p    Provider
	name string
}

func (g guardedRanges) set(ranges []ClusterRange) error {
	set, err := encodeRanges(ranges)
	if err != nil {
		return fmt.Errorf("%s: %w", g.name, err)
	}
	guard, err := g.guard()
	if err != nil || *inForce(&guard) == set {
		return err
	}
	guard.Sets[(guard.Current+1)&1] = set
	write := func() error { return put(g.p.Map(g.name), g.name, uint32(0), &guard) }
	if err := write(); err != nil {
		return err
	}
	guard.Current++
	return write()
}

func (g guardedRanges) guard() (guard bpf.ClusterGuard, err error) {
	if err = g.p.Map(g.name).Lookup(uint32(0), &guard); err != nil {
		err = fmt.Errorf("reading the map %s: %w", g.name, err)
	}
	return guard, err
}

// inForce is the set that the programs read.
func inForce(guard *bpf.ClusterGuard) *bpf.ClusterRangeSet { return &guard.Sets[guard.Current&1] }

func (g guardedRanges) has(ranges []ClusterRange) (bool, error) {
	want, err := encodeRanges(ranges)
	if err != nil {
		return false, err
	}
	have, err := g.guard()
	return err == nil && *inForce(&have) == want, err
}

func encodeRanges(ranges []ClusterRange) (set bpf.ClusterRangeSet, err error) {
	used := map[Family]int{}
	for _, r := range ranges {
		family := FamilyOf(r.Prefix.Addr())
		if used[family] == MaxClusterRanges {
			return set, fmt.Errorf("range %s: there are more than %d", r.Prefix, MaxClusterRanges)
		}
		slot := &set.V6[used[family]]
		if family == IPv4 {
			slot = &set.V4[used[family]]
		}
		used[family]++
		slot.Addr, slot.Mask = wordsOf(r.Prefix.Masked().Addr()), wordsOf(netmask(r.Prefix))
		slot.Flags = bpf.ClusterRangeUsed
		if r.Drop {
			slot.Flags |= bpf.ClusterRangeDrop
		}
	}
	return set, nil
}

func (g guardedRanges) all() ([]ClusterRange, error) {
	guard, err := g.guard()
	if err != nil {
		return nil, err
	}
	set := inForce(&guard)
	var out []ClusterRange
	add := func(r bpf.ClusterRange, addr, mask netip.Addr) {
		if r.Flags != 0 {
			out = append(out, ClusterRange{netip.PrefixFrom(addr, ones(mask)), r.Flags&bpf.ClusterRangeDrop != 0})
		}
	}
	for _, r := range set.V4 {
		add(r, addr4(r.Addr[0]), addr4(r.Mask[0]))
	}
	for _, r := range set.V6 {
		add(r, addr6(r.Addr), addr6(r.Mask))
	}
	return out, nil
}

// netmask is a prefix's mask, in the form of an address.
func netmask(p netip.Prefix) netip.Addr {
	mask, _ := netip.AddrFromSlice(net.CIDRMask(p.Bits(), p.Addr().BitLen()))
	return mask
}

func ones(mask netip.Addr) int {
	n, _ := net.IPMask(mask.AsSlice()).Size()
	return n
}

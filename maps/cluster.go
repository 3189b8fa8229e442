// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"iter"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// ClusterAddrs are the cluster IPs of all services, waggle's and other proxies', with the ranges that
// hold them.
type ClusterAddrs struct {
	p Provider
}

// NewClusterAddrs opens the map.
func NewClusterAddrs(p Provider) *ClusterAddrs { return &ClusterAddrs{p} }

// Put adds an address, or takes it over from another proxy. Packets there that match no frontend are
// refused, if the address is in a range.
func (c *ClusterAddrs) Put(a netip.Addr) error { return c.put(a, bpf.ClusterAddrOurs) }

// PutOthers adds an address of another proxy's service, or hands it over to that proxy: the datapath
// leaves packets there alone.
func (c *ClusterAddrs) PutOthers(a netip.Addr) error { return c.put(a, bpf.ClusterAddrOthers) }

func (c *ClusterAddrs) put(a netip.Addr, owner uint8) error {
	if err := put(c.p.Map("cluster_addrs"), "cluster_addrs", clusterKey(a), owner); err != nil {
		return fmt.Errorf("cluster IP %s: %w", a, err)
	}
	return nil
}

// Delete removes an address. It returns no error for an address that isn't there.
func (c *ClusterAddrs) Delete(a netip.Addr) error {
	beforeWrite()
	err := c.p.Map("cluster_addrs").Delete(clusterKey(a))
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("cluster IP %s: %w", a, err)
	}
	return nil
}

// Get reports whether an address is there, and whether it is another proxy's.
func (c *ClusterAddrs) Get(a netip.Addr) (ok, others bool, err error) {
	var owner uint8
	err = c.p.Map("cluster_addrs").Lookup(clusterKey(a), &owner)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("reading cluster IP %s: %w", a, err)
	}
	return true, owner == bpf.ClusterAddrOthers, nil
}

// Addrs returns the addresses in the map, read as keys does.
func (c *ClusterAddrs) Addrs() iter.Seq2[netip.Addr, error] {
	return func(yield func(netip.Addr, error) bool) {
		for key, err := range keys[bpf.Addr, uint8](c.p.Map("cluster_addrs"), "cluster_addrs") {
			if !yield(addr6(key.Word).Unmap(), err) {
				return
			}
		}
	}
}

// All reads the addresses.
func (c *ClusterAddrs) All() (ours, others []netip.Addr, err error) {
	err = each(c.p.Map("cluster_addrs"), "cluster_addrs", func(key bpf.Addr, owner *uint8) {
		a := addr6(key.Word).Unmap()
		if *owner == bpf.ClusterAddrOthers {
			others = append(others, a)
		} else {
			ours = append(ours, a)
		}
	})
	return ours, others, err
}

// clusterKey is IPv4-mapped for IPv4: both families are in one map.
func clusterKey(a netip.Addr) *bpf.Addr { return &bpf.Addr{Word: words6(a)} }

// ClusterRange is a prefix that cluster IPs are in.
type ClusterRange struct {
	Prefix netip.Prefix
	Drop   bool // packets for its unallocated addresses are dropped, not routed
}

// MaxClusterRanges is the most ranges of each family.
const MaxClusterRanges = len(bpf.ClusterRangeSet{}.V4)

// SetRanges replaces all ranges at once. Those of one family must not be more than MaxClusterRanges.
func (c *ClusterAddrs) SetRanges(ranges []ClusterRange) error {
	set, err := encodeRanges(ranges)
	if err != nil {
		return err
	}
	guard, err := c.guard()
	if err != nil || *inForce(&guard) == set {
		return err
	}
	guard.Sets[(guard.Current+1)&1] = set
	write := func() error { return put(c.p.Map("cluster_ranges"), "cluster_ranges", uint32(0), &guard) }
	if err := write(); err != nil {
		return err
	}
	guard.Current++
	return write()
}

func (c *ClusterAddrs) guard() (guard bpf.ClusterGuard, err error) {
	if err = c.p.Map("cluster_ranges").Lookup(uint32(0), &guard); err != nil {
		err = fmt.Errorf("reading the map cluster_ranges: %w", err)
	}
	return guard, err
}

// inForce is the set that the programs read.
func inForce(guard *bpf.ClusterGuard) *bpf.ClusterRangeSet { return &guard.Sets[guard.Current&1] }

// HasRanges reports whether the map has these ranges, as SetRanges would write them.
func (c *ClusterAddrs) HasRanges(ranges []ClusterRange) (bool, error) {
	want, err := encodeRanges(ranges)
	if err != nil {
		return false, err
	}
	have, err := c.guard()
	return err == nil && *inForce(&have) == want, err
}

func encodeRanges(ranges []ClusterRange) (set bpf.ClusterRangeSet, err error) {
	used := map[Family]int{}
	for _, r := range ranges {
		family := FamilyOf(r.Prefix.Addr())
		if used[family] == MaxClusterRanges {
			return set, fmt.Errorf("cluster range %s: there are more than %d", r.Prefix, MaxClusterRanges)
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

// Ranges reads the ranges.
func (c *ClusterAddrs) Ranges() ([]ClusterRange, error) {
	guard, err := c.guard()
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

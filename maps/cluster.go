// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"iter"
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
	return guardedRanges{c.p, "cluster_ranges"}.set(ranges)
}

// HasRanges reports whether the map has these ranges, as SetRanges would write them.
func (c *ClusterAddrs) HasRanges(ranges []ClusterRange) (bool, error) {
	return guardedRanges{c.p, "cluster_ranges"}.has(ranges)
}

// Ranges reads the ranges.
func (c *ClusterAddrs) Ranges() ([]ClusterRange, error) {
	return guardedRanges{c.p, "cluster_ranges"}.all()
}

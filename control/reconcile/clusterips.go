// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/maps"
)

// clusterIPs keeps the set of live cluster IPs, and the ranges that hold them: the service CIDRs,
// as far as they are known, and the smallest prefix that covers the addresses outside of them. That
// prefix only grows until the next start. If it is too large, it costs lookups and nothing else.
type clusterIPs struct {
	table   *maps.ClusterAddrs
	live    map[netip.Addr]int           // number of frontends in the map, by address; own and disown keep it
	others  map[netip.Addr]bool          // of other service proxies' services, as of the last setOthers
	node    map[netip.Addr]bool          // assigned to the node's own devices, as of the last setNode
	written map[netip.Addr]owner         // the content of the map, without unowned
	dirty   map[netip.Addr]bool          // may differ from the map, until the next successful sync
	cidrs   []netip.Prefix               // the service CIDRs in force, without those that did not fit
	cover   map[maps.Family]netip.Prefix // the prefix in force for live addresses outside of cidrs
}

// owner is the owner of a cluster IP.
type owner int

const (
	unowned owner = iota // not in the map
	ours                 // a frontend of a service in Reconciler.services has it
	theirs               // another proxy, or a process of the node, serves it
)

// newClusterIPs reads what an earlier run left in the maps. The first sync removes addresses that
// nothing holds by then.
func newClusterIPs(p maps.Provider) (*clusterIPs, error) {
	c := &clusterIPs{
		table:  maps.NewClusterAddrs(p),
		live:   map[netip.Addr]int{},
		others: map[netip.Addr]bool{},
		dirty:  map[netip.Addr]bool{},
		cover:  map[maps.Family]netip.Prefix{},
	}
	var err error
	if c.written, err = c.read(); err != nil {
		return nil, err
	}
	for a, owner := range c.written {
		c.dirty[a] = true
		if owner == theirs {
			c.others[a] = true // until SetOthersClusterIPs
		}
	}
	ranges, err := c.table.Ranges()
	for _, r := range ranges {
		if r.Drop {
			c.cidrs = append(c.cidrs, r.Prefix)
		} else {
			c.cover[maps.FamilyOf(r.Prefix.Addr())] = r.Prefix
		}
	}
	return c, err
}

// read reads the map's content.
func (c *clusterIPs) read() (map[netip.Addr]owner, error) {
	addrs, others, err := c.table.All()
	all := make(map[netip.Addr]owner, len(addrs)+len(others))
	for _, a := range addrs {
		all[a] = ours
	}
	for _, a := range others {
		all[a] = theirs
	}
	return all, err
}

func (c *clusterIPs) hold(a netip.Addr) {
	c.live[a]++
	c.dirty[a] = true
}

func (c *clusterIPs) release(a netip.Addr) {
	if c.live[a]--; c.live[a] == 0 {
		delete(c.live, a)
	}
	c.dirty[a] = true
}

// sync makes the map hold what is held. It deletes before it adds, to make room. The next sync tries
// again what has failed.
func (c *clusterIPs) sync() error {
	var errs []error
	for _, leaving := range []bool{true, false} {
		for a := range c.dirty {
			if leaving != (c.owner(a) == unowned) {
				continue
			}
			if err := c.write(a); err != nil {
				errs = append(errs, err)
				continue
			}
			delete(c.dirty, a)
		}
	}
	return errors.Join(errs...)
}

func (c *clusterIPs) owner(a netip.Addr) owner {
	switch {
	case c.live[a] > 0:
		return ours
	case c.others[a], c.node[a]:
		return theirs
	}
	return unowned
}

func (c *clusterIPs) write(a netip.Addr) error {
	owner := c.owner(a)
	if owner == ours && !c.covered(a) {
		c.extend(a)
		if err := c.writeRanges(); err != nil {
			return err
		}
	}
	if owner == c.written[a] {
		return nil
	}
	put := c.table.Delete
	switch owner {
	case ours:
		put = c.table.Put
	case theirs:
		put = c.table.PutOthers
	}
	if err := put(a); err != nil {
		return err
	}
	c.note(a, owner)
	return nil
}

// note notes the content of the map.
func (c *clusterIPs) note(a netip.Addr, owner owner) {
	c.written[a] = owner
	if owner == unowned {
		delete(c.written, a)
	}
}

// setOthers replaces the cluster IPs of other proxies' services.
func (c *clusterIPs) setOthers(want map[netip.Addr]bool) error {
	c.others = c.replaced(c.others, want)
	return c.sync()
}

// setNode replaces the addresses of the node's devices, which a service may have, too.
func (c *clusterIPs) setNode(want map[netip.Addr]bool) error {
	c.node = c.replaced(c.node, want)
	return c.sync()
}

// replaced returns want, and marks what differs as dirty.
func (c *clusterIPs) replaced(have, want map[netip.Addr]bool) map[netip.Addr]bool {
	for _, set := range []map[netip.Addr]bool{have, want} {
		for a := range set {
			if have[a] != want[a] {
				c.dirty[a] = true
			}
		}
	}
	return want
}

func (c *clusterIPs) covered(a netip.Addr) bool {
	return c.cover[maps.FamilyOf(a)].Contains(a) || inAny(c.cidrs, a)
}

func inAny(prefixes []netip.Prefix, a netip.Addr) bool {
	return slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

// extend makes the covering prefix just short enough to hold an address.
func (c *clusterIPs) extend(a netip.Addr) {
	family := maps.FamilyOf(a)
	cover, ok := c.cover[family]
	if !ok {
		cover = netip.PrefixFrom(a, a.BitLen())
	}
	for !cover.Contains(a) {
		cover = netip.PrefixFrom(cover.Addr(), cover.Bits()-1).Masked()
	}
	c.cover[family] = cover
}

// setCIDRs replaces the service CIDRs. The covering prefix takes one element of the ranges, so
// there may be no room for all of them.
func (c *clusterIPs) setCIDRs(want []netip.Prefix) error {
	cidrs, left := fitting(want)
	var err error
	if len(left) > 0 {
		err = fmt.Errorf("service CIDRs %v: only %d of a family are guarded, so what is for their unallocated addresses is routed",
			left, maps.MaxClusterRanges-1)
	}
	if slices.Equal(cidrs, c.cidrs) {
		return err
	}
	before, beforeCover := c.cidrs, c.cover
	c.cidrs, c.cover = cidrs, map[maps.Family]netip.Prefix{}
	for a := range c.live {
		if !c.covered(a) {
			c.extend(a)
		}
	}
	if failed := c.writeRanges(); failed != nil {
		c.cidrs, c.cover = before, beforeCover
		return errors.Join(err, failed)
	}
	return err
}

// fitting leaves out prefixes that are within others, and those for which there is no room.
func fitting(want []netip.Prefix) (cidrs, left []netip.Prefix) {
	sorted := slices.Clone(want)
	for i := range sorted {
		sorted[i] = sorted[i].Masked()
	}
	slices.SortFunc(sorted, netip.Prefix.Compare) // a prefix comes before those that it holds
	count := map[maps.Family]int{}
	for _, p := range sorted {
		if inAny(cidrs, p.Addr()) || inAny(left, p.Addr()) {
			continue
		}
		family := maps.FamilyOf(p.Addr())
		if count[family]++; count[family] < maps.MaxClusterRanges {
			cidrs = append(cidrs, p)
		} else {
			left = append(left, p)
		}
	}
	return cidrs, left
}

func (c *clusterIPs) writeRanges() error { return c.table.SetRanges(c.ranges()) }

func (c *clusterIPs) ranges() (ranges []maps.ClusterRange) {
	for _, p := range c.cidrs {
		ranges = append(ranges, maps.ClusterRange{Prefix: p, Drop: true})
	}
	for _, family := range maps.Families {
		if p, ok := c.cover[family]; ok {
			ranges = append(ranges, maps.ClusterRange{Prefix: p})
		}
	}
	return ranges
}

// SetServiceCIDRs sets the ranges that cluster IPs are taken from, where they are known. From now
// on packets for their unallocated addresses are dropped. After an error some of the ranges may be
// in force.
func (r *Reconciler) SetServiceCIDRs(cidrs []netip.Prefix) error { return r.clusterIPs.setCIDRs(cidrs) }

// SetOthersClusterIPs sets the cluster IPs of services that other proxies serve: the datapath
// leaves packets for them to those proxies, within the service CIDRs, too. The reconciler keeps the
// map, which the caller must not change.
func (r *Reconciler) SetOthersClusterIPs(addrs map[netip.Addr]bool) error {
	return r.clusterIPs.setOthers(addrs)
}

// SetNodeClusterIPs sets the addresses in the service CIDRs that are assigned to the node's
// devices: the datapath leaves packets for them that match no frontend to the node. The reconciler
// keeps the map, which the caller must not change.
func (r *Reconciler) SetNodeClusterIPs(addrs map[netip.Addr]bool) error {
	return r.clusterIPs.setNode(addrs)
}

// SPDX-License-Identifier: Apache-2.0

package control

import (
	stdmaps "maps"
	"net/netip"
	"slices"
)

// SetAssigned sets the addresses of the node's devices. It plans only the services again that have
// an address that came or went: some CNI plugins give an address to each pod's device.
func (p *Proxy) SetAssigned(addrs map[netip.Addr]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	changed := map[netip.Addr]bool{}
	for _, set := range []map[netip.Addr]bool{p.node.Assigned, addrs} {
		for a := range set {
			if addrs[a] != p.node.Assigned[a] {
				changed[a] = true
			}
		}
	}
	if len(changed) == 0 {
		return
	}
	p.node.Assigned = addrs
	p.nodeIn = false
	for _, t := range p.trackers {
		t.dirtyAt(changed)
	}
	p.poke()
}

// dirtyAt marks the services that have one of these cluster IPs, so that they are planned again.
func (t *tracker) dirtyAt(addrs map[netip.Addr]bool) {
	for name, port := range t.svcMap {
		if a, ok := netip.AddrFromSlice(port.ClusterIP()); ok && addrs[a.Unmap()] {
			t.dirty[name] = true
		}
	}
}

// leaveToNode keeps packets to the node's own addresses in the service CIDRs from being refused or dropped.
func (p *Proxy) leaveToNode() {
	if p.nodeIn {
		return
	}
	inside := stdmaps.Clone(p.node.Assigned)
	stdmaps.DeleteFunc(inside, func(a netip.Addr, _ bool) bool {
		return !slices.ContainsFunc(p.cidrs, func(c netip.Prefix) bool { return c.Contains(a) })
	})
	err := p.reconciler.SetNodeClusterIPs(inside)
	if p.nodeIn = err == nil; err != nil {
		p.log.WithError(err).Warn("addresses of the node in the service CIDRs")
	}
}

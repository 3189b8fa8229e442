// SPDX-License-Identifier: Apache-2.0

package control

import (
	stdmaps "maps"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/control/leftovers"
)

// A cluster IP may be an address of the node, on which a process of the node listens for it:
// NodeLocal DNSCache takes the cluster DNS's so. kube-proxy is kept off by rules (NOTRACK) that no
// hook of ours passes. So we go by the address.

// assigned are the addresses that a cluster IP may be among. Those that kube-proxy in IPVS mode has
// left are not: nobody listens there.
func assigned(facts []*deviceFacts) map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, f := range facts {
		if f.link.Attrs().Name == leftovers.IPVSDevice {
			continue
		}
		for _, a := range f.addrs {
			out[a] = true
		}
	}
	return out
}

// Assigned returns the addresses of the node's devices, as at the last Sync. It is not changed.
func (d *Devices) Assigned() map[netip.Addr]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.assigned
}

// SetAssigned tells the addresses of the node's devices. Only services that have one of those that
// came or went are planned again: some CNI plugins give an address to each pod's device.
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

// dirtyAt has the services planned again that have one of these cluster IPs.
func (t *tracker) dirtyAt(addrs map[netip.Addr]bool) {
	for name, port := range t.svcMap {
		if a, ok := netip.AddrFromSlice(port.ClusterIP()); ok && addrs[a.Unmap()] {
			t.dirty[name] = true
		}
	}
}

// leaveToNode has the node's addresses in the service CIDRs neither refused nor dropped.
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

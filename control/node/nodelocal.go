// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"

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

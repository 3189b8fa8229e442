// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"

	"github.com/waggle-lb/waggle/control/leftovers"
)

// A cluster IP may be an address of the node, where a process of the node listens: NodeLocal
// DNSCache does this with the cluster DNS's. For kube-proxy, rules (NOTRACK) exempt these packets,
// but packets pass our hooks before such rules. So waggle goes by the address.

// assigned returns the addresses that may be such cluster IPs. It leaves out those that kube-proxy
// in IPVS mode has left: no process listens there.
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

// Assigned returns the addresses of the node's devices, as at the last Sync. The map does not
// change later.
func (d *Devices) Assigned() map[netip.Addr]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.assigned
}

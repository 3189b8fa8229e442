// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestLinks is the matrix on uplinks and tunnels that few kernels have all of.
// make test-vm runs it on one that has them.
//
// Contract: 45, 47.
func TestLinks(t *testing.T) {
	tc := modes[1]
	for _, c := range []struct {
		name string
		opts topo.Options
		m    mode
	}{
		{"bond", topo.Options{Uplink: topo.Bond}, tc},
		{"bond-xdp", topo.Options{Uplink: topo.Bond}, modes[0]},
		{"vlan", topo.Options{Uplink: topo.VLAN}, tc},
		{"ipip", topo.Options{PodNetwork: topo.IPIP}, tc},
		{"gre", topo.Options{PodNetwork: topo.GRE}, tc},
		{"wireguard", topo.Options{PodNetwork: topo.WireGuard}, tc},
	} {
		t.Run(c.name, func(t *testing.T) { matrix(t, newSetupWith(t, c.opts, c.m), c.opts.PodNetwork, c.m) })
	}
}

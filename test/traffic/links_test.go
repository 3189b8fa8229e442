// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/leftovers"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestLinks is the matrix on uplinks and tunnels that few kernels have all of: make test-vm runs it
// on one that does.
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

// TestBesideIPVS is the matrix on a node where kube-proxy in IPVS mode was: its device still holds
// the cluster IPs, and the kernel's virtual servers lead to an endpoint that is gone.
//
// Contract: 8, 36.
func TestBesideIPVS(t *testing.T) {
	tc := modes[1]
	s := newSetup(t, topo.Routed, tc)
	device := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: leftovers.IPVSDevice}}
	needs(t, s.Nodes[0].Netlink().LinkAdd(device))
	for _, target := range targets {
		for _, v6 := range bothFamilies {
			addr := clusterIP(s, target, v6)
			check(t, s.Nodes[0].AddAddr(device.Name, topo.Single(addr)))
			for _, udp := range []bool{false, true} {
				addVirtualServer(t, s.Nodes[0].Host, netip.AddrPortFrom(addr, servicePort(target, udp)), udp)
			}
		}
	}
	matrix(t, s, topo.Routed, tc)
}

func addVirtualServer(t *testing.T, h *topo.Host, addr netip.AddrPort, udp bool) {
	t.Helper()
	flag, gone := "--tcp-service", "10.244.0.99:1"
	if udp {
		flag = "--udp-service"
	}
	if addr.Addr().Is6() {
		gone = "[fd00:10:244::99]:1"
	}
	for _, args := range [][]string{
		{"--add-service", flag, addr.String(), "--scheduler", "rr"},
		{"--add-server", flag, addr.String(), "--real-server", gone, "--masquerading"},
	} {
		if out, err := h.Command("ipvsadm", args...).CombinedOutput(); err != nil {
			t.Fatalf("ipvsadm %v: %v: %s", args, err, out)
		}
	}
}

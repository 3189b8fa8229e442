// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"k8s.io/kubernetes/pkg/proxy"
)

// sourceRanges are the clients that may use a service port's load balancer addresses; none means
// all. A node that holds such an address, as when a load balancer announces it, sends from that
// address when it sends to it. So if a range holds the node's own address, the load balancer's
// addresses are added, as in kube-proxy.
func sourceRanges(port proxy.ServicePort, nodeIPs []netip.Addr) []netip.Prefix {
	if len(port.LoadBalancerVIPs()) == 0 {
		return nil
	}
	var out []netip.Prefix
	for _, n := range port.LoadBalancerSourceRanges() {
		addr, _ := netip.AddrFromSlice(n.IP)
		bits, _ := n.Mask.Size()
		if p := netip.PrefixFrom(addr, bits).Masked(); p.IsValid() {
			out = append(out, p)
		}
	}
	onNode := slices.ContainsFunc(nodeIPs, func(ip netip.Addr) bool {
		return slices.ContainsFunc(out, func(p netip.Prefix) bool { return p.Contains(ip) })
	})
	if onNode {
		for _, ip := range port.LoadBalancerVIPs() {
			if addr, ok := netip.AddrFromSlice(ip); ok {
				addr = addr.Unmap()
				out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
			}
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return slices.Compact(out)
}

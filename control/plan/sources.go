// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"net/netip"
	"slices"

	"k8s.io/kubernetes/pkg/proxy"
)

// sourceRanges are the clients that a service port's load balancer addresses are for; none means
// all. A node that holds such an address, as it does where a load balancer announces it, sends
// from it when it sends to it: so ranges that hold the node's own address hold these, too, as
// kube-proxy has it.
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

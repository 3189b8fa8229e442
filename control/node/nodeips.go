// SPDX-License-Identifier: Apache-2.0

package node

import (
	"net/netip"

	v1 "k8s.io/api/core/v1"
	utilnode "k8s.io/kubernetes/pkg/util/node"
)

// IPs returns the addresses of a Node that kube-proxy takes for the node's: the first internal
// address or, without one, the first external address, and the first address of the other family.
func IPs(node *v1.Node) (ips []netip.Addr) {
	if node == nil {
		return nil
	}
	chosen, err := utilnode.GetNodeHostIPs(node)
	if err != nil {
		return nil // the Node has none
	}
	for _, address := range chosen {
		if ip, ok := netip.AddrFromSlice(address); ok {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips
}

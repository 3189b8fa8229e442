// SPDX-License-Identifier: Apache-2.0

package control

import (
	"net/netip"

	v1 "k8s.io/api/core/v1"
	utilnode "k8s.io/kubernetes/pkg/util/node"
)

// nodeIPs are the addresses of a Node that kube-proxy takes for the node's: its first internal
// address or, without one, its first external address, and the first address of the other family.
func nodeIPs(node *v1.Node) (ips []netip.Addr) {
	if node == nil {
		return nil
	}
	chosen, err := utilnode.GetNodeHostIPs(node)
	if err != nil {
		return nil // there is none
	}
	for _, address := range chosen {
		if ip, ok := netip.AddrFromSlice(address); ok {
			ips = append(ips, ip.Unmap())
		}
	}
	return ips
}

// onNode follows the addresses of our Node object; nil tells that there is none. A Node that has
// lost all addresses keeps the last: its kubelet, or a cloud controller, is about to write others.
func (a *Agent) onNode(node *v1.Node) {
	ips := nodeIPs(node)
	if node != nil && len(ips) == 0 {
		ips = a.nodeIPs
	}
	a.nodeIPs = ips
	a.takeover.begin(attaching)
	a.devices.SetNodeIPs(ips)
	a.checks.setNodeIPs(ips)
	a.syncDevices(nodeChange{})
	a.takeover.end(attaching)
}

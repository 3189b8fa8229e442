// SPDX-License-Identifier: Apache-2.0

package topo

import "errors"

// Replug removes the node's eth0 and makes it again, with the same addresses, MAC and routes but
// another index, as when a driver is loaded again.
func (node *Node) Replug() error {
	n := node.network
	n.building.Lock()
	defer n.building.Unlock()
	mac, err := node.MAC("eth0")
	if err != nil {
		return err
	}
	if err := node.DelLink("eth0"); err != nil {
		return err
	}
	if err := n.plugIn(node.Host); err != nil {
		return err
	}
	if n.opts.XDPPeers {
		if err := n.AttachXDPPass(n.Link, node.BridgePort()); err != nil {
			return err
		}
	}
	made, err := node.Link("eth0")
	if err != nil {
		return err
	}
	errs := []error{node.ns.netlink.LinkSetHardwareAddr(made, mac)}
	for _, peer := range n.Nodes {
		if peer != node && n.opts.PodNetwork == Routed {
			errs = append(errs, node.reach(peer))
		}
	}
	return errors.Join(errs...)
}

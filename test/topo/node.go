// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"net/netip"
)

// Node is a host that forwards between the Ethernet and its pods.
type Node struct {
	*Host
	PodCIDR4 netip.Prefix
	PodCIDR6 netip.Prefix

	network *Network
	index   int
	nextPod int
	pods    map[string]*Pod
}

// BridgePort returns the name, in [Network.Link], of the other end of the
// node's eth0.
func (node *Node) BridgePort() string { return node.Name }

func (n *Network) addNode(index int) (*Node, error) {
	name := fmt.Sprintf("node-%d", index+1)
	cgroup, err := n.cgroups.make(name)
	if err != nil {
		return nil, err
	}
	host, err := n.newHost(name, cgroup, hostSettings, nodeSettings)
	if err != nil {
		return nil, err
	}
	node := &Node{Host: host, network: n, index: index, nextPod: firstPod, pods: map[string]*Pod{}}
	n.Nodes = append(n.Nodes, node)
	node.IP4, node.IP6 = onEthernet(index + 2)
	node.PodCIDR4, node.PodCIDR6 = podCIDRs(index)
	if err := n.plugIn(host); err != nil {
		return nil, err
	}
	if n.opts.XDPPeers {
		if err := n.AttachXDPPass(n.Link, node.BridgePort()); err != nil {
			return nil, err
		}
	}
	if n.opts.PodNetwork == VXLAN {
		return node, n.addVXLAN(node)
	}
	return node, nil
}

// routePods adds routes between every node's pods and every other's.
func (n *Network) routePods() error {
	for _, node := range n.Nodes {
		for _, peer := range n.Nodes {
			if node == peer {
				continue
			}
			if err := node.reach(peer); err != nil {
				return err
			}
		}
	}
	return nil
}

func (node *Node) reach(peer *Node) error {
	switch node.network.opts.PodNetwork {
	case VXLAN:
		return node.tunnelTo(peer)
	case IPIP, GRE, WireGuard:
		return node.pointTo(peer)
	case Unrouted:
		return nil
	}
	return errors.Join(
		node.AddRoute(peer.PodCIDR4, peer.IP4),
		node.AddRoute(peer.PodCIDR6, peer.IP6),
	)
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addVXLAN makes the node's tunnel device, as flannel does: no learning, no
// flooding, all peers configured.
func (n *Network) addVXLAN(node *Node) error {
	eth0, err := node.Link("eth0")
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = vxlanName, vxlanMTU
	vxlan := &netlink.Vxlan{
		LinkAttrs:    attrs,
		VxlanId:      vxlanID,
		VtepDevIndex: eth0.Attrs().Index,
		SrcAddr:      node.IP4.AsSlice(),
		Port:         vxlanPort,
	}
	if err := node.ns.netlink.LinkAdd(vxlan); err != nil {
		return fmt.Errorf("%s: %s: %w", node.Name, vxlanName, err)
	}
	if !n.opts.TxOffload {
		if err := node.ns.do(func() error { return DisableTxOffload(vxlanName) }); err != nil {
			return err
		}
	}
	ip4, ip6 := podAddr(node.index, 0)
	return errors.Join(
		node.SetUp(vxlanName),
		node.AddAddr(vxlanName, Single(ip4)),
		node.AddAddr(vxlanName, Single(ip6)),
	)
}

// tunnelTo adds the way to the pods of peer.
func (node *Node) tunnelTo(peer *Node) error {
	vxlan, err := node.Link(vxlanName)
	if err != nil {
		return err
	}
	mac, err := peer.MAC(vxlanName)
	if err != nil {
		return err
	}
	index := vxlan.Attrs().Index
	err = node.ns.netlink.NeighSet(&netlink.Neigh{
		LinkIndex:    index,
		Family:       unix.AF_BRIDGE,
		State:        netlink.NUD_PERMANENT,
		Flags:        netlink.NTF_SELF,
		IP:           peer.IP4.AsSlice(),
		HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("%s: forwarding entry of %s: %w", node.Name, peer.Name, err)
	}
	ip4, ip6 := podAddr(peer.index, 0)
	for via, pods := range map[netip.Addr]netip.Prefix{ip4: peer.PodCIDR4, ip6: peer.PodCIDR6} {
		neighbour := &netlink.Neigh{
			LinkIndex:    index,
			State:        netlink.NUD_PERMANENT,
			IP:           via.AsSlice(),
			HardwareAddr: mac,
		}
		if err := node.ns.netlink.NeighSet(neighbour); err != nil {
			return fmt.Errorf("%s: neighbour %s: %w", node.Name, via, err)
		}
		route := &netlink.Route{
			LinkIndex: index,
			Dst:       ipNet(pods),
			Gw:        via.AsSlice(),
			Flags:     int(netlink.FLAG_ONLINK),
		}
		if err := node.ns.netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("%s: route %s via %s: %w", node.Name, pods, via, err)
		}
	}
	return nil
}

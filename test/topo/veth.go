// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// end is one end of a veth pair.
type end struct {
	host   *Host
	ifname string
}

// connect makes a veth pair between two namespaces and brings it up. It returns
// without waiting for the carrier.
func (n *Network) connect(a, b end, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.NumTxQueues, attrs.NumRxQueues = a.ifname, mtu, n.opts.Queues, n.opts.Queues
	veth := netlink.NewVeth(attrs)
	veth.PeerName = b.ifname
	veth.PeerNamespace = netlink.NsFd(b.host.ns.file.Fd())
	if err := a.host.ns.netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("veth %s of %s to %s of %s: %w", a.ifname, a.host.Name, b.ifname, b.host.Name, err)
	}
	for _, e := range []end{a, b} {
		if !n.opts.TxOffload {
			if err := e.host.ns.do(func() error { return DisableTxOffload(e.ifname) }); err != nil {
				return err
			}
		}
		if err := e.host.SetUp(e.ifname); err != nil {
			return err
		}
	}
	return nil
}

// addBridge makes the Ethernet that the laptop and the nodes are on.
func (n *Network) addBridge() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	// Without a querier, snooping only loses neighbour discovery.
	snooping := false
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := n.Link.ns.netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	return n.Link.SetUp(bridgeName)
}

// plugIn connects a host to the bridge, with its addresses on eth0. The
// bridge's port has the host's name.
func (n *Network) plugIn(h *Host) error {
	return n.plug(h, "eth0", h.Name, ethernet4(h.IP4), ethernet6(h.IP6))
}

// AddUplink gives a node another device on the Ethernet, with addresses. The
// bridge's port has both names, as in node-1-eth1.
func (n *Network) AddUplink(node *Node, ifname string, addrs ...netip.Prefix) error {
	port := node.Name + "-" + ifname
	if err := n.plug(node.Host, ifname, port, addrs...); err != nil || !n.opts.XDPPeers {
		return err
	}
	return n.AttachXDPPass(n.Link, port)
}

func (n *Network) plug(h *Host, ifname, portName string, addrs ...netip.Prefix) error {
	if err := n.wire(h, ifname, portName); err != nil {
		return err
	}
	bridge, err1 := n.Link.Link(bridgeName)
	port, err2 := n.Link.Link(portName)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := n.Link.ns.netlink.LinkSetMaster(port, bridge); err != nil {
		return fmt.Errorf("bridge port %s: %w", portName, err)
	}
	var errs []error
	for _, addr := range addrs {
		errs = append(errs, h.AddAddr(ifname, addr))
	}
	return errors.Join(append(errs, h.AwaitCarrier(ifname), n.Link.AwaitCarrier(portName, bridgeName))...)
}

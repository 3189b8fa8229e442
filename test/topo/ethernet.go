// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
)

const secondBridge = "br1"

// Second returns a host's addresses on the second Ethernet: 192.168.2.x where
// those on the first are 192.168.1.x.
func Second(h *Host) (ip4, ip6 netip.Addr) {
	b4, b6 := h.IP4.As4(), h.IP6.As16()
	b4[2], b6[7] = 2, 2
	return netip.AddrFrom4(b4), netip.AddrFrom16(b6)
}

// AddEthernet connects hosts by a second Ethernet, as eth1.
func (n *Network) AddEthernet(hosts ...*Host) error {
	n.building.Lock()
	defer n.building.Unlock()
	snooping := false
	attrs := netlink.NewLinkAttrs()
	attrs.Name = secondBridge
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := n.Link.ns.netlink.LinkAdd(bridge); err != nil {
		return fmt.Errorf("bridge: %w", err)
	}
	if err := n.Link.SetUp(secondBridge); err != nil {
		return err
	}
	for _, h := range hosts {
		ip4, ip6 := Second(h)
		port := h.Name + "-eth1"
		err := errors.Join(
			n.connect(end{n.Link, port}, end{h, "eth1"}, 0),
			n.Link.SetMaster(port, secondBridge),
			h.AddAddr("eth1", ethernet4(ip4)),
			h.AddAddr("eth1", ethernet6(ip6)),
			h.AwaitCarrier("eth1"),
			n.Link.AwaitCarrier(port, secondBridge),
		)
		if err != nil {
			return err
		}
		if n.opts.XDPPeers {
			if err := n.AttachXDPPass(n.Link, port); err != nil {
				return err
			}
		}
	}
	return nil
}

// SetMaster makes a device a port of a bridge.
func (h *Host) SetMaster(ifname, bridge string) error {
	port, err1 := h.Link(ifname)
	master, err2 := h.Link(bridge)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	if err := h.ns.netlink.LinkSetMaster(port, master); err != nil {
		return fmt.Errorf("%s: make %s a port of %s: %w", h.Name, ifname, bridge, err)
	}
	return nil
}

// AddBridge makes a bridge with addresses. It has no carrier before it has
// ports. Its MAC is its own, not a port's, as with libvirt's and others'
// bridges.
func (h *Host) AddBridge(name string, addrs ...netip.Prefix) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = name
	attrs.HardwareAddr = net.HardwareAddr{0x02, 0, 0, 0, 0, 0}
	if _, err := rand.Read(attrs.HardwareAddr[1:]); err != nil {
		return err
	}
	snooping := false
	if err := h.ns.netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
		return fmt.Errorf("%s: bridge %s: %w", h.Name, name, err)
	}
	if err := h.SetUp(name); err != nil {
		return err
	}
	for _, a := range addrs {
		if err := h.AddAddr(name, a); err != nil {
			return err
		}
	}
	return nil
}

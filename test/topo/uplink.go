// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Uplink is the kind of the hosts' eth0.
type Uplink int

const (
	// Cable is a veth to the bridge's port.
	Cable Uplink = iota
	// Bond is a bond whose one port, port0, is the veth.
	Bond
	// VLAN is a VLAN on the veth, trunk0, and the bridge's port is that VLAN at its other end.
	VLAN
)

const ethernetVLAN = 5

// KernelLacks reports whether a network could not be made for want of a kind of device, which a test may be skipped for.
// The kernels of test/vm have all.
func KernelLacks(err error) bool {
	return errors.Is(err, unix.EOPNOTSUPP) && os.Getenv("WAGGLE_VM") == ""
}

// wire connects a host's device to a bridge's port.
func (n *Network) wire(h *Host, ifname, portName string) error {
	port := end{n.Link, portName}
	if ifname != "eth0" {
		return n.connect(port, end{h, ifname}, 0)
	}
	switch n.opts.Uplink {
	case Bond:
		return errors.Join(n.connect(port, end{h, "port0"}, 0), h.bond("port0", ifname))
	case VLAN:
		trunk := "t-" + portName
		return errors.Join(n.connect(end{n.Link, trunk}, end{h, "trunk0"}, 0),
			n.Link.vlan(trunk, portName), h.vlan("trunk0", ifname))
	}
	return n.connect(port, end{h, ifname}, 0)
}

func (h *Host) bond(port, ifname string) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name = ifname
	bond := netlink.NewLinkBond(attrs)
	bond.Mode, bond.Miimon = netlink.BOND_MODE_ACTIVE_BACKUP, 100
	if err := h.ns.netlink.LinkAdd(bond); err != nil {
		return fmt.Errorf("%s: bond %s: %w", h.Name, ifname, err)
	}
	link, err := h.Link(port)
	if err != nil {
		return err
	}
	// A bond accepts no port that is up.
	err = errors.Join(h.ns.netlink.LinkSetDown(link), h.ns.netlink.LinkSetMaster(link, bond), h.ns.netlink.LinkSetUp(link))
	if err != nil {
		return fmt.Errorf("%s: %s as a port of %s: %w", h.Name, port, ifname, err)
	}
	return h.SetUp(ifname)
}

func (h *Host) vlan(trunk, ifname string) error {
	link, err := h.Link(trunk)
	if err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex = ifname, link.Attrs().Index
	if err := h.ns.netlink.LinkAdd(&netlink.Vlan{LinkAttrs: attrs, VlanId: ethernetVLAN, VlanProtocol: netlink.VLAN_PROTOCOL_8021Q}); err != nil {
		return fmt.Errorf("%s: VLAN %s: %w", h.Name, ifname, err)
	}
	return h.SetUp(ifname)
}

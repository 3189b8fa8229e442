// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// AddAddr gives a device an address. If the device is up, the address is usable
// when AddAddr returns.
func (h *Host) AddAddr(ifname string, prefix netip.Prefix) error {
	link, err := h.Link(ifname)
	if err != nil {
		return err
	}
	if err := h.ns.netlink.AddrAdd(link, address(prefix)); err != nil {
		return fmt.Errorf("%s: add %s to %s: %w", h.Name, prefix, ifname, err)
	}
	if prefix.Addr().Is6() && link.Attrs().Flags&net.FlagUp != 0 {
		return h.awaitLocal(link, prefix.Addr())
	}
	return nil
}

// DelAddr removes an address from a device.
func (h *Host) DelAddr(ifname string, prefix netip.Prefix) error {
	link, err := h.Link(ifname)
	if err != nil {
		return err
	}
	if err := h.ns.netlink.AddrDel(link, address(prefix)); err != nil {
		return fmt.Errorf("%s: delete %s from %s: %w", h.Name, prefix, ifname, err)
	}
	return nil
}

// awaitLocal waits for the local route of an IPv6 address: even without
// duplicate address detection the kernel inserts it from a work queue.
func (h *Host) awaitLocal(link netlink.Link, addr netip.Addr) error {
	filter := &netlink.Route{Table: unix.RT_TABLE_LOCAL, Dst: hostNet(addr), LinkIndex: link.Attrs().Index}
	mask := netlink.RT_FILTER_TABLE | netlink.RT_FILTER_DST | netlink.RT_FILTER_OIF
	return h.ns.await(fmt.Sprintf("%s: local route of %s", h.Name, addr), func() (bool, error) {
		routes, err := h.ns.netlink.RouteListFiltered(netlink.FAMILY_V6, filter, mask)
		return len(routes) > 0, err
	})
}

// AddRoute routes a prefix, such as a LoadBalancer address or the service CIDR,
// to a neighbour. It replaces a route of the same prefix.
func (h *Host) AddRoute(prefix netip.Prefix, via netip.Addr) error {
	route := &netlink.Route{Dst: ipNet(prefix), Gw: via.AsSlice()}
	if err := h.ns.netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("%s: route %s via %s: %w", h.Name, prefix, via, err)
	}
	return nil
}

// DelRoute removes the route of a prefix.
func (h *Host) DelRoute(prefix netip.Prefix) error {
	if err := h.ns.netlink.RouteDel(&netlink.Route{Dst: ipNet(prefix)}); err != nil {
		return fmt.Errorf("%s: delete route %s: %w", h.Name, prefix, err)
	}
	return nil
}

// Single returns the prefix that holds only addr.
func Single(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

func address(prefix netip.Prefix) *netlink.Addr {
	a := &netlink.Addr{IPNet: &net.IPNet{
		IP:   prefix.Addr().AsSlice(),
		Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()),
	}}
	if prefix.Addr().Is6() {
		a.Flags = unix.IFA_F_NODAD
	}
	return a
}

func ipNet(prefix netip.Prefix) *net.IPNet { return address(prefix.Masked()).IPNet }

func hostNet(addr netip.Addr) *net.IPNet { return ipNet(Single(addr)) }

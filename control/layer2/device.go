// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader/netdump"
	"github.com/waggle-lb/waggle/maps"
)

// Device is one on which addresses can be announced.
type Device struct {
	Index int
	Name  string
	MAC   net.HardwareAddr
	// Subnets are the prefixes of its addresses, but for single hosts' and link-local ones.
	Subnets []netip.Prefix
	// Carrier: the device has a link, or can't say.
	Carrier bool
	// LinkLocal is its IPv6 address that every such device should have; invalid if it has none.
	LinkLocal netip.Addr
}

// HasSubnet reports whether an address is of one of the device's subnets.
func (d Device) HasSubnet(addr netip.Addr) bool {
	return slices.ContainsFunc(d.Subnets, func(p netip.Prefix) bool { return p.Contains(addr.Unmap()) })
}

// WithSubnet returns those of the devices that have an address's subnet.
func WithSubnet(devices []Device, addr netip.Addr) []Device {
	var out []Device
	for _, d := range devices {
		if d.HasSubnet(addr) {
			out = append(out, d)
		}
	}
	return out
}

// Devices lists the devices on which addresses can be announced, by ifindex: those that lead out of the node, have a
// MAC, are up, and run the programs that answer.
func (w *Wire) Devices() ([]Device, error) {
	served, err := w.devices.All()
	if err != nil {
		return nil, err
	}
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("listing devices: %w", err)
	}
	addrs, err := netdump.Whole(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("listing addresses: %w", err)
	}
	var out []Device
	for _, link := range links {
		attrs := link.Attrs()
		if d := served[attrs.Index]; answers(d) && attrs.Flags&net.FlagUp != 0 && len(attrs.HardwareAddr) == macLen {
			out = append(out, newDevice(attrs, addrs))
		}
	}
	slices.SortFunc(out, func(a, b Device) int { return a.Index - b.Index })
	return out, nil
}

const macLen = 6

// answers reports whether the programs on a device answer ARP requests and solicitations.
func answers(d maps.Device) bool { return d.EgressHook && d.Ethernet && !d.Pod }

// newDevice picks the addresses of a device.
func newDevice(attrs *netlink.LinkAttrs, addrs []netlink.Addr) Device {
	d := Device{Index: attrs.Index, Name: attrs.Name, MAC: slices.Clone(attrs.HardwareAddr)}
	d.Carrier = attrs.OperState == netlink.OperUp || attrs.OperState == netlink.OperUnknown
	for _, a := range addrs {
		ip, ok := netip.AddrFromSlice(a.IP)
		if a.LinkIndex != attrs.Index || !ok {
			continue
		}
		ip = ip.Unmap()
		ones, size := a.Mask.Size()
		switch {
		case ip.Is6() && ip.IsLinkLocalUnicast():
			d.LinkLocal = ip
		case ones < size && !ip.IsLinkLocalUnicast():
			d.Subnets = append(d.Subnets, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	return d
}

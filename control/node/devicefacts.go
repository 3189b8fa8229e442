// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// deviceFacts is what the role of a device hangs on.
type deviceFacts struct {
	link        netlink.Link
	local       []netip.Addr // what the node answers to, but for the link's and the loopback's own
	addrs       []netip.Addr // those of them that are of global scope
	hasSubnet   bool         // one of addrs is not a single host's
	holdsNodeIP bool
	routes      deviceRoutes
	master      *deviceFacts   // that it is a port of
	ports       []*deviceFacts // of it
	isLower     bool           // other devices are made on it, as VLANs are
}

// deviceRoutes is where the routes of all tables lead by a device, also as one of several ways.
type deviceRoutes struct {
	elsewhere bool         // to more than the hosts on it
	gateway   bool         // by one of them
	isDefault bool         // everywhere
	inMain    bool         // everywhere, in the main table
	sources   []netip.Addr // that default routes prefer
}

// nodeFacts are the node's devices.
type nodeFacts struct {
	devices []*deviceFacts
	untold  bool // there are routes of which the kernel doesn't tell by what devices
}

func (f *deviceFacts) addAddr(a address, nodeIPs []netip.Addr) {
	if a.scope == unix.RT_SCOPE_LINK || a.ip.IsLoopback() {
		return
	}
	f.local = append(f.local, a.ip)
	if a.scope != unix.RT_SCOPE_UNIVERSE {
		return
	}
	f.addrs = append(f.addrs, a.ip)
	f.holdsNodeIP = f.holdsNodeIP || slices.Contains(nodeIPs, a.ip)
	f.hasSubnet = f.hasSubnet || a.subnet
}

// relate finds the devices that a device is a port of, or is made on.
func (f *deviceFacts) relate(byIndex map[int]*deviceFacts) {
	attrs := f.link.Attrs()
	if master := byIndex[attrs.MasterIndex]; master != nil {
		f.master = master
		master.ports = append(master.ports, f)
	}
	if lower := byIndex[attrs.ParentIndex]; lower != nil && attrs.NetNsID < 0 && !pairTypes[f.link.Type()] {
		lower.isLower = true
	}
}

// routesByDevice tells of each device what routes lead by it. Element 0 is there if there are routes of which
// the kernel doesn't tell the devices.
type routesByDevice map[int]deviceRoutes

// listRoutes reads the routes of all tables, one at a time: there may be a million.
func listRoutes() (routesByDevice, error) {
	everyTable := &netlink.Route{Table: unix.RT_TABLE_UNSPEC}
	all, err := netdump.Whole(func() (routesByDevice, error) {
		all := routesByDevice{}
		return all, netlink.RouteListFilteredIter(netlink.FAMILY_ALL, everyTable, netlink.RT_FILTER_TABLE, func(r netlink.Route) bool {
			for _, hop := range hopsOf(r) {
				if routes := all[hop.LinkIndex]; routes.add(r, hop) || hop.LinkIndex == 0 {
					all[hop.LinkIndex] = routes
				}
			}
			return true
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing routes: %w", err)
	}
	return all, nil
}

// hopsOf lists the ways of a route that forwards.
func hopsOf(r netlink.Route) []*netlink.NexthopInfo {
	switch {
	case r.Type != unix.RTN_UNICAST:
		return nil
	case len(r.MultiPath) > 0:
		return r.MultiPath
	}
	return []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
}

// add reports whether a route is one to more than the hosts on the device.
func (d *deviceRoutes) add(r netlink.Route, hop *netlink.NexthopInfo) bool {
	if !leadsElsewhere(r.Dst, hop) {
		return false
	}
	d.elsewhere = true
	d.gateway = d.gateway || hop.Gw != nil || hop.Via != nil
	if !isDefault(r.Dst) {
		return true
	}
	d.isDefault = true
	d.inMain = d.inMain || r.Table == unix.RT_TABLE_MAIN
	if source, ok := netip.AddrFromSlice(r.Src); ok {
		d.sources = append(d.sources, source.Unmap())
	}
	return true
}

// leadsElsewhere tells a route to others from one to a host at the other end of the device. Each
// device with IPv6 has routes to link-local and multicast addresses.
func leadsElsewhere(dst *net.IPNet, hop *netlink.NexthopInfo) bool {
	if isDefault(dst) {
		return true
	}
	if dst.IP.IsLinkLocalUnicast() || dst.IP.IsMulticast() {
		return false
	}
	if ones, bits := dst.Mask.Size(); ones < bits {
		return true
	}
	return hop.Via != nil || hop.Gw != nil && !hop.Gw.Equal(dst.IP)
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0 && dst.IP.IsUnspecified()
}

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

// deviceFacts are the facts that decide the role of a device.
type deviceFacts struct {
	link        netlink.Link
	local       []netip.Addr // the addresses that the node answers to, except link-scope and loopback addresses
	addrs       []netip.Addr // those of local with global scope
	hasSubnet   bool         // one of addrs is a network's, not a single host's
	holdsNodeIP bool
	routes      deviceRoutes
	master      *deviceFacts   // the device that this one is a port of
	ports       []*deviceFacts // this device's ports
	isLower     bool           // other devices are made on it, such as VLANs
}

// deviceRoutes says where the routes of all tables lead by a device. A multipath route counts for each of its
// devices.
type deviceRoutes struct {
	elsewhere bool           // to more than the hosts on the device
	gateway   bool           // by a gateway on it
	isDefault bool           // a default route
	inMain    bool           // a default route in the main table
	sources   []netip.Addr   // the source addresses that default routes prefer
	onLink    []netip.Prefix // ranges that hold what is on the device, see podranges.go
}

// nodeFacts are the node's devices.
type nodeFacts struct {
	devices []*deviceFacts
	untold  bool // the kernel does not report the devices of some routes
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

// relate finds the device that a device is a port of, and the devices that it is made on.
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

// routesByDevice are the routes by each device, by ifindex. Element 0 exists if there are routes whose
// devices the kernel does not report.
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

// hopsOf lists the next hops of a route that forwards.
func hopsOf(r netlink.Route) []*netlink.NexthopInfo {
	switch {
	case r.Type != unix.RTN_UNICAST:
		return nil
	case len(r.MultiPath) > 0:
		return r.MultiPath
	}
	return []*netlink.NexthopInfo{{LinkIndex: r.LinkIndex, Gw: r.Gw, Via: r.Via}}
}

// add adds a route. It reports whether the route leads elsewhere, or to a range of hosts on the device.
func (d *deviceRoutes) add(r netlink.Route, hop *netlink.NexthopInfo) bool {
	to, isOnLink := onLink(r.Dst, hop)
	if isOnLink {
		d.onLink = addRange(d.onLink, to)
	}
	if !leadsElsewhere(r.Dst, hop) {
		return isOnLink
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

// leadsElsewhere reports whether a route leads farther than to a host at the other end of the device. Each
// device with IPv6 has routes to link-local and multicast addresses, which don't count.
func leadsElsewhere(dst *net.IPNet, hop *netlink.NexthopInfo) bool {
	if isDefault(dst) {
		return true
	}
	if isOfEachDevice(dst) {
		return false
	}
	if ones, bits := dst.Mask.Size(); ones < bits {
		return true
	}
	return isByGateway(dst, hop)
}

// isOfEachDevice reports whether a route leads to addresses that each device has such a route for.
func isOfEachDevice(dst *net.IPNet) bool {
	return dst.IP.IsLinkLocalUnicast() || dst.IP.IsMulticast()
}

// isByGateway reports whether a route leads by another host than the one it is for.
func isByGateway(dst *net.IPNet, hop *netlink.NexthopInfo) bool {
	return hop.Via != nil || hop.Gw != nil && !hop.Gw.Equal(dst.IP)
}

func isDefault(dst *net.IPNet) bool {
	if dst == nil {
		return true
	}
	ones, _ := dst.Mask.Size()
	return ones == 0 && dst.IP.IsUnspecified()
}

// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"encoding/binary"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader/netdump"
)

// zones finds the zone in which the packets of an address enter the node: by the device of the route
// back to it or, if that is a bridge, by the port.
type zones struct {
	pod map[int]bool // the devices of pods, by ifindex
	// ports are the bridges' ports by the addresses behind them; nil before the first bridge.
	ports map[port]int
	known map[bpf.Addr]bpf.Zone
}

type port struct {
	bridge int
	mac    string
}

// newZones takes the ifindexes of the devices that pods are behind.
func newZones(pod map[int]bool) *zones { return &zones{pod: pod, known: map[bpf.Addr]bpf.Zone{}} }

// of returns the zone of an address. family is unix.AF_INET or unix.AF_INET6.
func (z *zones) of(family uint32, addr bpf.Addr) bpf.Zone {
	zone, ok := z.known[addr]
	if !ok {
		zone = z.find(int(family), ipOf(family, addr))
		z.known[addr] = zone
	}
	return zone
}

// find returns outside for an address without a route: a pod has one.
func (z *zones) find(family int, ip net.IP) bpf.Zone {
	routes, err := netlink.RouteGet(ip)
	if err != nil || len(routes) == 0 {
		return bpf.ZoneOutside
	}
	device := routes[0].LinkIndex
	if z.pod[device] || z.pod[z.portOf(device, family, ip)] {
		return bpf.ZonePod
	}
	return bpf.ZoneOutside
}

// portOf returns the port of a bridge that an address is behind, 0 if there is none.
func (z *zones) portOf(device, family int, ip net.IP) int {
	z.readPorts()
	if len(z.ports) == 0 {
		return 0
	}
	neighbours, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(device, family) })
	if err != nil {
		return 0
	}
	for _, n := range neighbours {
		if n.IP.Equal(ip) {
			return z.ports[port{device, n.HardwareAddr.String()}]
		}
	}
	return 0
}

func (z *zones) readPorts() {
	if z.ports != nil {
		return
	}
	z.ports = map[port]int{}
	entries, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, unix.AF_BRIDGE) })
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.MasterIndex != 0 {
			z.ports[port{e.MasterIndex, e.HardwareAddr.String()}] = e.LinkIndex
		}
	}
}

// ipOf converts an address. IPv4 uses the first word only.
func ipOf(family uint32, addr bpf.Addr) net.IP {
	var b net.IP
	for _, word := range addr.Word {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	if family == unix.AF_INET {
		return b[:net.IPv4len]
	}
	return b
}

// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// device is where a packet is, and the programs that it meets there.
type device struct {
	name     string
	index    int
	mac      net.HardwareAddr // none: there is no link layer
	programs map[string]string
}

// The hooks of a device, as loader.LinkStatus names them.
const (
	hookXDP     = "xdp"
	hookIngress = "tc-ingress"
	hookEgress  = "tc-egress"
)

// deviceNamed finds a device of the node by its name.
func (e *Explainer) deviceNamed(name string) (device, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return device{}, fmt.Errorf("--device %s: there is no such device", name)
	}
	if err != nil {
		return device{}, fmt.Errorf("--device %s: %w", name, err)
	}
	return e.deviceOf(link), nil
}

func (e *Explainer) deviceOf(link netlink.Link) device {
	attrs := link.Attrs()
	d := device{name: attrs.Name, index: attrs.Index, mac: attrs.HardwareAddr, programs: map[string]string{}}
	for _, l := range e.links {
		if l.Ifindex == d.index && l.Attached {
			d.programs[l.Hook] = l.Program
		}
	}
	if ingress := d.programs[hookIngress]; ingress == "waggle_ingress_l3" {
		d.mac = nil
	}
	return d
}

// outside4 and outside6 stand for a client outside where none is named: RFC 5737 and RFC 3849.
var (
	outside4 = netip.MustParseAddr("192.0.2.1")
	outside6 = netip.MustParseAddr("2001:db8:ffff::1")
)

const clientPort = 40000 // of a client whose port is not named

// Outside is a client outside of the cluster, which does not exist.
func Outside(to netip.Addr) netip.AddrPort {
	if to.Is4() {
		return netip.AddrPortFrom(outside4, clientPort)
	}
	return netip.AddrPortFrom(outside6, clientPort)
}

// deviceTowards finds the device that leads to an address, by which packets from there come in.
func (e *Explainer) deviceTowards(from netip.Addr, named bool) (device, error) {
	link, err := linkTowards(from)
	if err != nil && !named {
		if d, ok := e.onlyExternal(); ok {
			return d, nil
		}
	}
	if err != nil {
		return device{}, fmt.Errorf("no route leads to %s (%w): name the device that its packets come in by, with --device", from, err)
	}
	if link.Attrs().Flags&net.FlagLoopback != 0 {
		return device{}, fmt.Errorf("--from %s: an address of this node, whose processes are asked about with --socket; "+
			"with --device and --leaving a packet that leaves", from)
	}
	if bridge, ok := link.(*netlink.Bridge); ok {
		link = portOf(bridge, from)
	}
	return e.deviceOf(link), nil
}

func linkTowards(to netip.Addr) (netlink.Link, error) {
	routes, err := netlink.RouteGet(net.IP(to.AsSlice()))
	if err != nil {
		return nil, err
	}
	if len(routes) == 0 {
		return nil, errors.New("the kernel names none")
	}
	return netlink.LinkByIndex(routes[0].LinkIndex)
}

// onlyExternal is the device that clients outside come in by, if there is but one.
func (e *Explainer) onlyExternal() (d device, ok bool) {
	for _, l := range e.links {
		if l.Hook != hookIngress || l.Program != "waggle_ingress" || l.Device == d.name {
			continue
		}
		if d.name != "" {
			return device{}, false
		}
		if link, err := netlink.LinkByIndex(l.Ifindex); err == nil {
			d = e.deviceOf(link)
		}
	}
	return d, d.name != ""
}

// portOf is the port of a bridge that a neighbour is behind: pods' programs are there. The bridge, if that is not
// known.
func portOf(bridge *netlink.Bridge, neighbour netip.Addr) netlink.Link {
	mac := neighbourMAC(bridge.Index, neighbour)
	ports, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, unix.AF_BRIDGE) })
	if mac == nil || err != nil {
		return bridge
	}
	for _, entry := range ports {
		if entry.HardwareAddr.String() != mac.String() || entry.MasterIndex != bridge.Index {
			continue
		}
		if port, err := netlink.LinkByIndex(entry.LinkIndex); err == nil {
			return port
		}
	}
	return bridge
}

func neighbourMAC(ifindex int, addr netip.Addr) net.HardwareAddr {
	family := netlink.FAMILY_V4
	if addr.Is6() {
		family = netlink.FAMILY_V6
	}
	known, err := netdump.Whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(ifindex, family) })
	if err != nil {
		return nil
	}
	for _, n := range known {
		if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == addr {
			return n.HardwareAddr
		}
	}
	return nil
}

// deviceName names a device for people.
func deviceName(index int) string {
	link, err := netlink.LinkByIndex(index)
	if err != nil {
		return fmt.Sprintf("the device with index %d", index)
	}
	return link.Attrs().Name
}

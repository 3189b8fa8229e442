// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	gomaps "maps"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// Change says what may differ from what was last read of the kernel's links, addresses and routes. The zero value:
// nothing.
type Change struct {
	all     bool
	routes  bool         // the devices that routes lead by
	devices map[int]bool // by ifindex: the link and its addresses
}

// everything stands for all links, addresses and routes.
var everything = Change{all: true}

func (c *Change) addDevice(ifindex int) {
	if c.devices == nil {
		c.devices = map[int]bool{}
	}
	c.devices[ifindex] = true
}

// IsLook reports whether the change is no event, but a periodic look at everything, or at what others may have
// changed.
func (c *Change) IsLook() bool { return c.all || c.isEmpty() }

func (c *Change) isEmpty() bool { return !c.all && !c.routes && len(c.devices) == 0 }

// kernelView is what was last read of the kernel's links, addresses and routes. A list of all takes time in
// proportion to the devices, so after a change it reads only what has changed.
type kernelView struct {
	links  map[int]netlink.Link // nil: not known
	addrs  map[int][]address
	routes routesByDevice
}

// update reads what may have changed. changed reports whether any fact that decides may have: most events repeat
// what is known, or change what the agent does not use. After a failure nothing is known, and the next call reads
// all.
func (v *kernelView) update(change Change) (changed bool, err error) {
	if changed, err = v.read(change); err != nil {
		*v = kernelView{}
	}
	return changed, err
}

func (v *kernelView) read(change Change) (changed bool, err error) {
	if change.all || v.links == nil {
		return true, v.readAll()
	}
	for _, ifindex := range v.withPeers(change.devices) {
		other, err := v.readDevice(ifindex)
		if err != nil {
			return changed, err
		}
		otherPeer, err := v.readPeerOf(ifindex, change.devices)
		if err != nil {
			return changed, err
		}
		changed = changed || other || otherPeer
	}
	if change.routes {
		changed = true
		v.routes, err = listRoutes()
	}
	return changed, err
}

func (v *kernelView) readAll() (err error) {
	if err := v.readLinks(); err != nil {
		return err
	}
	v.routes, err = listRoutes()
	return err
}

// readLinks reads all links and their addresses.
func (v *kernelView) readLinks() error {
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	v.links = make(map[int]netlink.Link, len(links))
	for _, link := range links {
		v.links[link.Attrs().Index] = link
	}
	v.addrs, err = listAddrs(0)
	return err
}

func (v *kernelView) allLinks() []netlink.Link { return slices.Collect(gomaps.Values(v.links)) }

// withPeers adds the devices whose other ends have changed: when one end moves to another namespace, the kernel
// reports that end only.
func (v *kernelView) withPeers(changed map[int]bool) []int {
	all := gomaps.Clone(changed)
	for ifindex, link := range v.links {
		if changed[peerOf(link)] {
			all[ifindex] = true
		}
	}
	return slices.Sorted(gomaps.Keys(all))
}

// readPeerOf reads the other end of a device, which may have just come back to our namespace.
func (v *kernelView) readPeerOf(ifindex int, changed map[int]bool) (other bool, err error) {
	link, there := v.links[ifindex]
	if !there {
		return false, nil
	}
	peer := peerOf(link)
	if known, there := v.links[peer]; !there || changed[peer] || peerOf(known) == ifindex {
		return false, nil
	}
	return v.readDevice(peer)
}

// peerOf returns the index of a device's other end, or of the device that it is made on, in our namespace; 0 if
// there is none.
func peerOf(link netlink.Link) int {
	if attrs := link.Attrs(); attrs.NetNsID < 0 {
		return attrs.ParentIndex
	}
	return 0
}

// readDevice reads one link and its addresses, and reports whether they differ from before.
func (v *kernelView) readDevice(ifindex int) (other bool, err error) {
	before, known := v.links[ifindex]
	link, err := netlink.LinkByIndex(ifindex)
	var notFound netlink.LinkNotFoundError
	if errors.As(err, &notFound) {
		delete(v.links, ifindex)
		delete(v.addrs, ifindex)
		delete(v.routes, ifindex)
		return known, nil
	}
	if err != nil {
		return false, fmt.Errorf("device %d: %w", ifindex, err)
	}
	addrs, err := listAddrs(ifindex)
	if err != nil {
		return false, err
	}
	other = !known || !alike(before, link) || !slices.Equal(v.addrs[ifindex], addrs[ifindex])
	v.links[ifindex], v.addrs[ifindex] = link, addrs[ifindex]
	return other, nil
}

// alike reports whether two states of a link agree in all that its role, and its status, depend on.
func alike(a, b netlink.Link) bool {
	of := func(link netlink.Link) any {
		attrs := link.Attrs()
		return struct {
			kind, name, encapsulation string
			master, parent, namespace int
			up, carries               bool
			xdp                       bool
		}{
			link.Type(), attrs.Name, attrs.EncapType,
			attrs.MasterIndex, attrs.ParentIndex, attrs.NetNsID,
			attrs.Flags&net.FlagUp != 0, attrs.Statistics != nil && attrs.Statistics.RxPackets > 0,
			attrs.Xdp != nil && attrs.Xdp.Attached,
		}
	}
	return of(a) == of(b)
}

// facts returns the node's devices, by their indexes.
func (v *kernelView) facts(nodeIPs []netip.Addr) *nodeFacts {
	var all nodeFacts
	byIndex := make(map[int]*deviceFacts, len(v.links))
	for _, ifindex := range slices.Sorted(gomaps.Keys(v.links)) {
		f := &deviceFacts{link: v.links[ifindex], routes: v.routes[ifindex]}
		for _, a := range v.addrs[ifindex] {
			f.addAddr(a, nodeIPs)
		}
		byIndex[ifindex] = f
		all.devices = append(all.devices, f)
	}
	for _, f := range all.devices {
		f.relate(byIndex)
	}
	_, all.untold = v.routes[0]
	return &all
}

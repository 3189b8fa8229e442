// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

// epoch is a time for calls where the time does not matter.
var epoch = time.Unix(0, 0)

// must is for reads of a map that was just made.
func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// fixNeighbour gives a node a permanent neighbour entry for another one, so
// that nothing waits for an answer.
func fixNeighbour(node, other *topo.Node) error {
	mac, err := other.MAC("eth0")
	if err != nil {
		return err
	}
	link, err := node.Link("eth0")
	if err != nil {
		return err
	}
	set := func(a netip.Addr, mac net.HardwareAddr) error {
		family := unix.AF_INET
		if a.Is6() {
			family = unix.AF_INET6
		}
		return node.Netlink().NeighSet(&netlink.Neigh{LinkIndex: link.Attrs().Index, Family: family,
			State: unix.NUD_PERMANENT, IP: a.AsSlice(), HardwareAddr: mac})
	}
	return errors.Join(set(other.IP4, mac), set(other.IP6, mac))
}

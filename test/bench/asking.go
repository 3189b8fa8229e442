// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/bench/probe"
	"github.com/waggle-lb/waggle/test/topo"
)

// askingStates are the programs that ask netfilter's connection table, and those that do not.
var askingStates = []watchState{{name: "", twin: true}, {name: "without the question"}}

// followed is how many connections netfilter follows meanwhile.
const followed = 1 << 15

// measureAsking measures new flows of datagrams that keep their source: the one kind of flow that asks
// the connection table before it opens.
func measureAsking(o options) (results []Result, err error) {
	network, err := topo.New(topo.ForXDP())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	size, connections := uint32(1<<16), uint32(followed)
	if o.quick {
		size, connections = 1<<10, 1<<8
	}
	r := newRunner(o)
	step := hotStep{kind: kindAsking, sizes: []uint32{size}, fresh: r.freshFlows(), bare: probe.Room{Hash: 4 * size, LRU: 2 * size}}
	return measureStates(o, network, step, askingStates, func(r *hotRig) error {
		return errors.Join(r.loadTwin("kernel_has_conntrack", true), follow(connections))
	})
}

// follow fills the connection table of the network namespace.
func follow(connections uint32) error {
	server := netip.MustParseAddrPort("10.9.9.9:53")
	for i := range connections {
		client := further(netip.MustParseAddr("10.100.0.0"), i)
		forward := netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: client.AsSlice(), SrcPort: 1024, DstIP: server.Addr().AsSlice(), DstPort: server.Port()}
		reverse := netlink.IPTuple{Protocol: unix.IPPROTO_UDP, SrcIP: forward.DstIP, SrcPort: forward.DstPort, DstIP: forward.SrcIP, DstPort: forward.SrcPort}
		flow := &netlink.ConntrackFlow{FamilyType: unix.AF_INET, Forward: forward, Reverse: reverse, TimeOut: 3600}
		if err := netlink.ConntrackCreate(netlink.ConntrackTable, unix.AF_INET, flow); err != nil {
			return fmt.Errorf("connection %d of netfilter's: %w", i, err)
		}
	}
	return nil
}

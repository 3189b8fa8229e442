// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/maps"
)

// SharedPorts reads the present state of the node. It returns a function that reports whether an address
// and a port are the node's, and may be used by flows of ours, too: node ports, and ports for SNAT.
type SharedPorts func() (func(netip.AddrPort) bool, error)

// isOwn reports whether the node, or a pod that netfilter masquerades, has opened the connection of an
// entry from a shared port: its answers come in there. The egress program records connections that open
// while it is attached (bpf/own.h); older ones are only in the kernel's table.
func isOwn(e conntrack.Entry, shared func(netip.AddrPort) bool) bool {
	return shared != nil && conntrack.Known(e.Proto) && e.Zone == 0 && !e.Translated() && shared(e.Reply.Dst)
}

// own makes the records that the egress program makes of such a connection: nothing is rewritten, and
// its answers come in from outside. Packets keep the records alive.
func own(e conntrack.Entry) []maps.Flow {
	tuple := func(t conntrack.Tuple, zone bpf.Zone) maps.Tuple {
		return maps.Tuple{Src: t.Src, Dst: t.Dst, Proto: e.Proto, Zone: zone}
	}
	request, reply := tuple(e.Reply.Reversed(), bpf.ZoneLeaving), tuple(e.Reply, bpf.ZoneOutside)
	state := stateOf(e)
	return []maps.Flow{
		{Key: request, To: request, State: state, Flags: uint16(bpf.ZoneOutside) * bpf.FlowMirrorZone},
		{Key: reply, To: reply, State: state, Flags: bpf.FlowReply | uint16(bpf.ZoneLeaving)*bpf.FlowMirrorZone},
	}
}

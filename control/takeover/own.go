// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/maps"
)

// SharedPorts looks at the node as it is now, and returns what reports whether an address and a port are
// the node's, and flows of ours may use them, too: node ports, and those for SNAT.
type SharedPorts func() (func(netip.AddrPort) bool, error)

// isOwn reports whether an entry is of a connection that the node, or a pod that netfilter
// masquerades, has opened from a shared port: there its answers come in. The egress program records
// those that open while it is attached (bpf/own.h); of those that are older the kernel's table tells.
func isOwn(e conntrack.Entry, shared func(netip.AddrPort) bool) bool {
	return shared != nil && conntrack.Known(e.Proto) && e.Zone == 0 && !e.Translated() && shared(e.Reply.Dst)
}

// own makes the records that the egress program makes of such a connection: nothing is rewritten,
// and its answers come in from outside. Packets keep them alive.
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

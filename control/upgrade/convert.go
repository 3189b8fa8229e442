// SPDX-License-Identifier: Apache-2.0

package upgrade

import "github.com/waggle-lb/waggle/bpf"

// convert makes our records from one of layout 1: mostly one, none if it has no successor, and two
// where its packets may come in by either kind of hook. zoneOf returns the zone in which the
// packets of a source enter the node.
//
//	express   the same, from outside
//	stack     the same; a client that is a pod of this node has the zone pod
//	split     the same three; but if client and backend have one address it becomes turn, if
//	          that is a pod, or else express, and the third record goes
//	foreign   a pair for each zone, as a takeover makes them
func convert(r record, zoneOf func(bpf.Addr) bpf.Zone) []bpf.Conversion {
	c := bpf.Conversion{
		Key: r.key, To: r.to, Family: r.family, State: r.state, Service: r.service, Backend: r.backend,
		LastSeen: r.lastSeen, Expect: r.expect,
	}
	if r.flags&oldForeign != 0 {
		return convertForeign(c, r.flags&oldReply != 0)
	}
	client, backend := r.ends(zoneOf)
	switch {
	case r.flags&oldSplitSource != 0 && r.isHairpin():
		return nil
	case r.flags&oldSplitSource != 0:
		c.Key.Zone, c.Flags = uint8(bpf.ZoneLeaving), bpf.FlowSplitSource|mirror(backend)
	case r.flags&oldReply == 0:
		c.Key.Zone, c.Flags = uint8(client), r.clientFlags(client, backend)
	case r.egress:
		c.Key.Zone, c.Flags = uint8(bpf.ZoneLeaving), bpf.FlowReply|mirror(client)
	default:
		c.Key.Zone, c.Flags = uint8(backend), r.replyFlags(client)
	}
	c.To.Zone = c.Key.Zone
	return []bpf.Conversion{c}
}

// ends returns the zones in which the packets of client and backend enter the node. Those of an
// express flow come from outside.
func (r *record) ends(zoneOf func(bpf.Addr) bpf.Zone) (client, backend bpf.Zone) {
	if r.flags&(oldExpress|oldSplit) == oldExpress {
		return bpf.ZoneOutside, bpf.ZoneOutside
	}
	if r.flags&oldReply == 0 { // the client's record, or a third one
		return zoneOf(r.key.Saddr), zoneOf(r.to.Daddr)
	}
	return zoneOf(r.to.Daddr), zoneOf(r.key.Saddr)
}

// isHairpin reports whether a flow leads back to its client, by any of its records.
func (r *record) isHairpin() bool { return r.key.Saddr == r.to.Daddr }

func (r *record) clientFlags(client, backend bpf.Zone) uint16 {
	switch {
	case r.flags&oldSplit != 0 && r.isHairpin():
		return express(client) | mirror(backend)
	case r.flags&oldSplit != 0:
		return bpf.FlowSplit | mirror(backend)
	case r.flags&oldExpress != 0:
		return bpf.FlowExpress | mirror(backend)
	}
	return mirror(bpf.ZoneLeaving)
}

// replyFlags are the flags of an answer that is sent past the stack.
func (r *record) replyFlags(client bpf.Zone) uint16 {
	switch {
	case r.flags&oldSplit != 0 && r.isHairpin():
		return bpf.FlowReply | express(client) | mirror(client)
	case r.flags&oldSplit != 0:
		return bpf.FlowReply | bpf.FlowExpress | bpf.FlowSplit | mirror(client)
	}
	return bpf.FlowReply | bpf.FlowExpress | mirror(client)
}

// express returns the flag for the way back to where a packet came from.
func express(zone bpf.Zone) uint16 {
	if zone == bpf.ZonePod {
		return bpf.FlowExpress | bpf.FlowTurn
	}
	return bpf.FlowExpress
}

func mirror(zone bpf.Zone) uint16 { return uint16(zone) * bpf.FlowMirrorZone }

func convertForeign(c bpf.Conversion, reply bool) []bpf.Conversion {
	var both []bpf.Conversion
	for _, zone := range []bpf.Zone{bpf.ZoneOutside, bpf.ZonePod} {
		c.Key.Zone, c.To.Zone = uint8(zone), uint8(zone)
		c.Flags = bpf.FlowForeign | mirror(zone)
		if reply {
			c.Flags |= bpf.FlowReply
		}
		both = append(both, c)
	}
	return both
}

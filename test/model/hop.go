// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// HopKey identifies a next hop that flows share: the FIB's answer in one generation of routes.
type HopKey struct {
	Generation uint32 // 0: no next hop
	Device     int
	Via        netip.Addr
	MTU        int
}

// Hop says how to transmit.
type Hop struct {
	HopKey
	DMAC, SMAC [6]byte
	Resolved   bool // DMAC is the neighbour's
	XDP, TC    bool // which of them may transmit
}

func (h *Hop) address(frame []byte) {
	copy(frame, h.DMAC[:])
	copy(frame[6:], h.SMAC[:])
}

func (h *Hop) tooSmallFor(p *packet) bool { return h.MTU > 0 && p.length > h.MTU }

// nextHop returns the next hop of a record's packets. It asks the FIB if the hop is not known: if a
// route may have changed, or the neighbour is not resolved. The result is false without a route.
func (n *Node) nextHop(r *Record) (Hop, bool) {
	if known := n.NextHops[r.Hop]; r.Hop.Generation == n.Generation && known.Resolved {
		return *known, true
	}
	route := n.Route(r.Dst.Addr())
	if route.Device == 0 {
		return Hop{}, false
	}
	hop := n.learn(route)
	if hop.Resolved {
		r.Hop = hop.HopKey
	}
	return hop, true
}

// learn keeps a route whose neighbour is resolved, for all flows that use it.
func (n *Node) learn(route Route) Hop {
	if !route.Resolved {
		return Hop{HopKey: HopKey{Device: route.Device}}
	}
	device := n.Devices[route.Device]
	hop := Hop{
		HopKey: HopKey{n.Generation, route.Device, route.Via, route.MTU},
		DMAC:   route.MAC, SMAC: device.MAC, Resolved: true, XDP: device.XDP, TC: device.Express,
	}
	n.NextHops[hop.HopKey] = &hop
	return hop
}

// Neighbour does what the agent does when a neighbour has moved, or is no longer known.
func (n *Node) Neighbour(k HopKey, mac [6]byte, resolved bool) {
	n.NextHops[k].DMAC, n.NextHops[k].Resolved = mac, resolved
}

// kept returns what a record keeps of a hop.
func (h Hop) kept() HopKey {
	if !h.Resolved {
		return HopKey{}
	}
	return h.HopKey
}

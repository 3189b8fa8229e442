// SPDX-License-Identifier: Apache-2.0

package model

import "net/netip"

// HopKey names a next hop that flows share: what the FIB has answered in one generation of routes.
type HopKey struct {
	Generation uint32 // 0: none is known
	Device     int
	Via        netip.Addr
	MTU        int
}

// Hop is how to transmit.
type Hop struct {
	HopKey
	DMAC, SMAC [6]byte
	Resolved   bool // DMAC is the neighbour's
	XDP, TC    bool // who may transmit
}

func (h *Hop) address(frame []byte) {
	copy(frame, h.DMAC[:])
	copy(frame[6:], h.SMAC[:])
}

func (h *Hop) tooSmallFor(p *packet) bool { return h.MTU > 0 && p.length > h.MTU }

// nextHop gives where a record's packets go, and asks if that is not known: if a route may have
// changed, or the neighbour is not resolved. False: nowhere.
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

// learn keeps a route whose neighbour is resolved, for all flows that take it.
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

// Neighbour does what the agent does when a neighbour has moved, or is not known any more.
func (n *Node) Neighbour(k HopKey, mac [6]byte, resolved bool) {
	n.NextHops[k].DMAC, n.NextHops[k].Resolved = mac, resolved
}

// kept is what a record keeps of it.
func (h Hop) kept() HopKey {
	if !h.Resolved {
		return HopKey{}
	}
	return h.HopKey
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// Choices returns what the programs have chosen where any choice is right.
type Choices interface {
	// Opened returns the record that they have made for the first packet of a flow, if any.
	Opened(Tuple) (Record, bool)
	// Remembered returns the backend that they remember for a client of a service.
	Remembered(AffinityKey) (uint32, bool)
}

// AffinityKey is a client of a service port.
type AffinityKey struct {
	Service uint32
	Client  netip.Addr
}

// Affinity is the backend of its last flow.
type Affinity struct {
	Backend uint32
	Addr    netip.AddrPort
	Used    int
}

// origin is what decides about a flow's path at the client's end.
type origin struct {
	onNode     bool // one of our pods
	inside     bool // the internal policy applies
	keep       bool // its address is always kept
	masquerade bool // its address is never kept
	pretends   bool // it has the address of one of our pods
}

func (n *Node) origin(p *packet, policy *Policy, pod bool) origin {
	local := pod
	if policy.Kind == ClusterIP || policy.ExternalLocal {
		local = pod || contains(n.Local, p.tuple.Src.Addr())
	}
	return origin{
		onNode:     pod,
		pretends:   !pod && n.isPod(p.tuple.Src.Addr()),
		inside:     local,
		keep:       pod || local && policy.Kind == ClusterIP,
		masquerade: n.MasqueradeAll && policy.Kind == ClusterIP,
	}
}

// open decides about the first packet of a flow.
func (n *Node) open(p *packet, policy *Policy, pod bool) bpf.Verdict {
	client := p.tuple.Src.Addr()
	switch {
	case !pod && n.IsOwn(client):
		return bpf.VerdictNotOurs
	case p.flags&Rst != 0 || !canSend(client):
		return bpf.VerdictDropNoFlow
	case p.part == later: // another flow would not have had the first
		return bpf.VerdictFragment
	case !policy.admits(client):
		return bpf.VerdictDropSourceRange
	}
	o := n.origin(p, policy, pod)
	candidates := n.candidates(policy, o.inside)
	switch {
	case len(candidates) == 0 && n.elsewhere(policy):
		return bpf.VerdictDropNoLocalEndpoint
	case len(candidates) == 0:
		return bpf.VerdictRefused
	}
	backend := n.choose(p, policy.Service, o, candidates)
	if backend == nil {
		return bpf.VerdictDropError
	}
	n.remember(policy.Service, client, backend)
	if o.pretends {
		return bpf.VerdictNotOurs
	}
	w, ok := n.way(p, backend, o)
	if !ok {
		return bpf.VerdictDropNoRoute
	}
	return n.record(p, policy.Service, backend, w)
}

// isPod reports whether the kernel would send packets for the address to a pod, while the packet at
// hand came in elsewhere.
func (n *Node) isPod(a netip.Addr) bool {
	device := n.Devices[n.Route(a).Device]
	return device != nil && device.Pod && device != n.device
}

// sharesPort reports whether connections of the node may leave from a port that flows of ours use,
// too.
func (n *Node) sharesPort(port uint16) bool {
	return port >= n.NodePortMin && port <= n.NodePortMax || port >= n.SNATMin && port <= n.SNATMax
}

// begins reports whether a packet may begin a connection. A server's answer does not.
func (p *packet) begins() bool {
	return p.part != later && (p.proto() == UDP || p.flags&(Syn|Ack) == Syn)
}

// openOwn records a connection of the node itself, so that its answers are known.
func (n *Node) openOwn(p *packet) *Record {
	if !n.sharesPort(p.tuple.Src.Port()) || !p.begins() || !n.IsOwn(p.tuple.Src.Addr()) {
		return nil
	}
	reply := bpf.ZoneOutside
	if n.device.Pod {
		reply = bpf.ZonePod
	}
	answer := p.tuple.reversed(reply)
	if r := n.table(answer)[answer]; r != nil && !r.is(bpf.FlowReply) {
		return nil // the answer of a service
	}
	return n.untranslated(p, reply)
}

// openBeside opens the flow of a client that connects to an endpoint directly, from the port of its
// flow to a service that leads there as well.
func (n *Node) openBeside(p *packet) *Record {
	reply := p.tuple.reversed(bpf.ZoneLeaving)
	r := n.table(reply)[reply]
	if !p.begins() || r == nil || !r.is(bpf.FlowReply) || n.dead(reply, r) {
		return nil
	}
	return n.untranslated(p, bpf.ZoneLeaving)
}

// untranslated records a flow that keeps its addresses, and its source port if that is free.
func (n *Node) untranslated(p *packet, reply bpf.Zone) *Record {
	w := way{flags: uint16(reply) * bpf.FlowMirrorZone, source: p.tuple.Src.Addr()}
	if n.record(p, &Service{}, &Backend{Addr: p.tuple.Dst}, w) != bpf.VerdictFlowOpened {
		return nil
	}
	n.event(bpf.VerdictFlowOpened)
	return n.table(p.tuple)[p.tuple]
}

// choose returns the backend of a new flow: the client's earlier one if affinity wants it, else the
// programs' choice, which must be a candidate.
func (n *Node) choose(p *packet, s *Service, o origin, candidates []*Backend) *Backend {
	key := AffinityKey{s.ID, p.tuple.Src.Addr()}
	if known, ok := n.Affinity[key]; ok && s.Affinity > 0 && n.Clock-known.Used < max(s.Affinity, 1) {
		for _, b := range candidates {
			if b.ID == known.Backend && b.Addr == known.Addr {
				return b
			}
		}
	}
	id, chosen := uint32(0), false
	if r, ok := n.choices.Opened(p.tuple); ok {
		id, chosen = r.Backend, true
	} else if s.Affinity > 0 {
		id, chosen = n.choices.Remembered(key)
	}
	for _, b := range candidates {
		// if the flow could not be recorded, any of the candidates may have been chosen
		if chosen && b.ID == id || !chosen && n.cannotOpen(p, b, o) {
			if !chosen && len(candidates) > 1 {
				n.Unsure++
			}
			return b
		}
	}
	n.fail("%s leads to backend %d (%t), which is none of its service's %v", p.tuple, id, chosen, ids(candidates))
	return nil
}

func ids(backends []*Backend) (list []uint32) {
	for _, b := range backends {
		list = append(list, b.ID)
	}
	return list
}

func (n *Node) remember(s *Service, client netip.Addr, b *Backend) {
	if s.Affinity > 0 {
		n.Affinity[AffinityKey{s.ID, client}] = Affinity{b.ID, b.Addr, n.Clock}
	}
}

// way is the path that a flow will take.
type way struct {
	flags  uint16 // of the client's record: express, turn, split, or none: through the stack
	source netip.Addr
	route  Route
}

// translates reports whether the client's address is translated.
func (w way) translates() bool { return w.flags&(bpf.FlowExpress|bpf.FlowSplit) != 0 }

// replyZone returns the zone of the answers.
func (w way) replyZone() bpf.Zone { r := Record{Flags: w.flags}; return r.mirrorZone() }

// way returns the path to a backend. The client's address is kept if the backend's answers pass
// this node in any case: unless the backend is on another node and the client is outside, or the
// backend is the client. The result is false without a route.
func (n *Node) way(p *packet, b *Backend, o origin) (way, bool) {
	client := p.tuple.Src.Addr()
	stack := way{source: client, flags: uint16(bpf.ZoneLeaving) * bpf.FlowMirrorZone}
	itself := client == b.Addr.Addr()
	if !itself && !o.masquerade && (o.keep || b.Local) {
		if p.proto() == TCP && p.flags&Syn != 0 {
			stack.flags |= bpf.FlowBegun
		}
		return stack, true
	}
	if itself && o.onNode {
		w := way{flags: bpf.FlowExpress | bpf.FlowTurn | uint16(bpf.ZonePod)*bpf.FlowMirrorZone, source: n.snatAddr(n.device.Index, p.v6)}
		return w, w.source.IsValid()
	}
	route := n.Route(b.Addr.Addr())
	if route.Device == 0 {
		return stack, b.Local || n.IsOwn(b.Addr.Addr())
	}
	device := n.Devices[route.Device]
	switch {
	case device == nil:
		return stack, b.Local || n.IsOwn(b.Addr.Addr())
	case device.Express && !b.Local && !o.onNode:
		w := way{flags: bpf.FlowExpress, source: n.snatAddr(route.Device, p.v6), route: route}
		return w, w.source.IsValid()
	case device.Egress:
		zone := bpf.ZoneOutside
		if device.Pod {
			zone = bpf.ZonePod
		}
		w := way{flags: bpf.FlowSplit | uint16(zone)*bpf.FlowMirrorZone, source: n.snatAddr(route.Device, p.v6), route: route}
		return w, w.source.IsValid()
	}
	return stack, true
}

func (n *Node) cannotOpen(p *packet, b *Backend, o origin) bool {
	w, ok := n.way(p, b, o)
	return !ok || o.pretends || len(n.freePorts(p, b, w)) == 0
}

// portTries is how many source ports are tried before one is taken that an unconfirmed flow holds.
const portTries = 2

// freePorts returns the source ports under which the backend may know the flow. If the client's own
// port can be kept, it is the only one. If none is free, ports of unconfirmed flows are.
func (n *Node) freePorts(p *packet, b *Backend, w way) map[uint16]bool {
	if own := p.tuple.Src.Port(); !w.translates() && n.isFree(p.tuple, b, w, own) {
		return map[uint16]bool{own: true}
	}
	free, held := make(map[uint16]bool), make(map[uint16]bool)
	for i := int(n.SNATMin); i <= int(n.SNATMax); i++ {
		switch port := uint16(i); {
		case n.isFree(p.tuple, b, w, port):
			free[port] = true
		case n.isHeld(p.tuple, b, w, port):
			held[port] = true
		}
	}
	if len(free) == 0 {
		return held
	}
	return free
}

// replyOf returns the tuple of the answers to a flow with a source port.
func replyOf(t Tuple, b *Backend, w way, port uint16) Tuple {
	return Tuple{b.Addr, netip.AddrPortFrom(w.source, port), t.Proto, w.replyZone()}
}

// isFree reports whether a flow may have a source port at once.
func (n *Node) isFree(t Tuple, b *Backend, w way, port uint16) bool {
	return n.isUnused(t, b, w, port) && !n.isDirect(t, b, w, port)
}

// isUnused reports whether no other flow's answers have this tuple. The flow's own earlier records
// don't count, unless they are of a translated connection: the backend may still be in TIME_WAIT.
func (n *Node) isUnused(t Tuple, b *Backend, w way, port uint16) bool {
	reply := replyOf(t, b, w, port)
	r := n.table(reply)[reply]
	return r == nil || !(r.isConfirmed() && w.translates()) && r.mirrors(t, false) || n.dead(reply, r)
}

// isDirect reports whether a client has lately sent datagrams from a port to an endpoint directly.
func (n *Node) isDirect(t Tuple, b *Backend, w way, port uint16) bool {
	if t.Proto != UDP || w.translates() {
		return false
	}
	at, ok := n.Direct[Tuple{netip.AddrPortFrom(w.source, port), b.Addr, UDP, t.Zone}]
	if !ok || n.Clock-at >= n.Limits.UDP {
		return false
	}
	made, opened := n.choices.Opened(t)
	return !n.Shared || !opened || made.Src.Port() != port // if it was lost, either is right
}

// isHeld reports whether a flow gets a source port after some tries: only direct datagrams have it, or an unconfirmed flow.
func (n *Node) isHeld(t Tuple, b *Backend, w way, port uint16) bool {
	reply := replyOf(t, b, w, port)
	r := n.table(reply)[reply]
	return r != nil && !r.isConfirmed() || n.isUnused(t, b, w, port) && n.isDirect(t, b, w, port)
}

// replyFlags returns the flags of the backend's half, from the client's flags and the zone of the
// client's packets.
func replyFlags(flags uint16, zone bpf.Zone) uint16 {
	reply := bpf.FlowReply | uint16(zone)*bpf.FlowMirrorZone | flags&bpf.FlowBegun
	if flags&(bpf.FlowExpress|bpf.FlowSplit) != 0 {
		reply |= bpf.FlowExpress | flags&(bpf.FlowSplit|bpf.FlowTurn)
	}
	return reply
}

// cameIn returns the device of the request at hand, if the kernel routes its answers.
func (n *Node) cameIn(flags uint16, zone bpf.Zone) int {
	if flags&(bpf.FlowExpress|bpf.FlowSplit) != 0 || zone != bpf.ZoneOutside {
		return 0
	}
	return n.device.Index
}

// record records a flow in both directions.
func (n *Node) record(p *packet, s *Service, b *Backend, w way) bpf.Verdict {
	var hop HopKey
	if w.flags == bpf.FlowExpress {
		hop = n.learn(w.route).kept()
	}
	made, opened := n.choices.Opened(p.tuple)
	port := made.Src.Port()
	switch span := int(n.SNATMax) - int(n.SNATMin); {
	case span <= 10: // all are tried
		free := n.freePorts(p, b, w)
		if len(free) == 0 {
			return bpf.VerdictDropSNATExhausted
		}
		// with more ports, not all are tried before one that is held is taken
		own := !w.translates() && free[p.tuple.Src.Port()]
		held := span >= portTries && !own && n.isHeld(p.tuple, b, w, port)
		if opened && !free[port] && !held {
			n.fail("%s got source port %d, free are %v", p.tuple, port, free)
		}
	case opened && !w.translates() && port == p.tuple.Src.Port() && n.isFree(p.tuple, b, w, port):
	case opened && !w.translates() && n.isFree(p.tuple, b, w, p.tuple.Src.Port()),
		opened && (port < n.SNATMin || port > n.SNATMax || !n.isFree(p.tuple, b, w, port) && !n.isHeld(p.tuple, b, w, port)):
		n.fail("%s got source port %d, which is not free", p.tuple, port)
	}
	if !opened {
		n.fail("%s should have become a flow to %s", p.tuple, b.Addr)
		return bpf.VerdictDropError
	}
	table, reply := n.table(p.tuple), replyOf(p.tuple, b, w, port)
	half := Record{Service: s.ID, Backend: b.ID, Seen: n.Clock, Src: p.tuple.Dst, Dst: p.tuple.Src}
	if p.flags&Fin != 0 {
		half.State = bpf.StateFinClient
	}
	half.Flags, half.In = replyFlags(w.flags, p.tuple.Zone), n.cameIn(w.flags, p.tuple.Zone)
	table.insert(reply, half)
	half.Src, half.Dst, half.Flags, half.Hop, half.In = reply.Dst, b.Addr, w.flags, hop, 0
	n.insertSplitSource(p.tuple, table.insert(p.tuple, half))
	return bpf.VerdictFlowOpened
}

// splitSource returns the tuple of a split flow's packets between the two hooks: all is translated
// but the source address.
func splitSource(t Tuple, r *Record) Tuple {
	return Tuple{netip.AddrPortFrom(t.Src.Addr(), r.Src.Port()), r.Dst, t.Proto, bpf.ZoneLeaving}
}

// insertSplitSource makes the third record of a flow, if it has one.
func (n *Node) insertSplitSource(t Tuple, r *Record) {
	if !r.is(bpf.FlowSplit) {
		return
	}
	source := *r
	source.Hop = HopKey{}
	source.Flags = bpf.FlowSplitSource | r.Flags&bpf.FlowMirrorZoneMask
	n.table(t).insert(splitSource(t, r), source)
}

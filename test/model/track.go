// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// An ACK that is further ahead than this was not sent by who got the SYN-ACK.
const ackWindow = 65536

// other is the other half of a flow, if it is not lost.
func (t *Table) other(k Tuple, r *Record) *Record {
	m := t.get(r.mirror(k))
	if m != nil && m.mirrors(k, r.is(bpf.FlowEgressHalf)) {
		return m
	}
	return nil
}

// follow keeps up with a flow.
func (n *Node) follow(f found, p *packet) {
	if n.Clock > f.Seen {
		f.Seen = n.Clock
	}
	if p.part == later {
		return
	}
	if p.flags&(Fin|Rst) != 0 {
		n.followClose(f, p)
	}
	if f.table == n.tables(p.tuple).pending && !f.is(bpf.FlowEgressHalf) {
		if f.is(bpf.FlowReply) {
			n.followAnswer(f, p)
		} else {
			n.followClient(f, p)
		}
	}
}

// followClose: both halves know of a FIN or a reset, whichever saw it.
func (n *Node) followClose(f found, p *packet) {
	bit := bpf.StateFinClient
	if f.is(bpf.FlowReply) {
		bit = bpf.StateFinBackend
	}
	if p.flags&Rst != 0 {
		bit = bpf.StateReset
	}
	if f.State&bit != 0 {
		return
	}
	f.State |= bit
	if m := f.table.other(p.tuple, f.Record); m != nil {
		m.State |= bit
	}
}

// followAnswer: what the backend sends says what the client's acknowledgement will be.
func (n *Node) followAnswer(f found, p *packet) {
	if p.flags&Rst != 0 {
		return
	}
	m := f.table.other(p.tuple, f.Record)
	if m != nil && f.State&bpf.StateAnswered != 0 && p.flags&Syn == 0 {
		return
	}
	if m == nil {
		m = n.restore(p.tuple, f.Record)
	}
	if m == nil {
		return
	}
	m.Expect = p.seq
	if p.flags&Syn != 0 {
		m.Expect++
	}
	m.State |= bpf.StateAnswered
	f.State |= bpf.StateAnswered
}

// followClient: the client's packet may be what confirms the flow.
func (n *Node) followClient(f found, p *packet) {
	if acknowledges(f.Record, p) && !n.confirm(p.tuple, f.Record) {
		f.Expect = p.ack
	}
}

func acknowledges(r *Record, p *packet) bool {
	switch {
	case r.State&bpf.StateAnswered == 0:
		return false
	case p.proto() == UDP:
		return true
	case p.flags&(Ack|Syn|Rst) != Ack:
		return false
	case p.proto() == SCTP:
		return r.Expect == 0 || p.ack == r.Expect
	}
	return p.ack-r.Expect < ackWindow
}

// confirm moves a flow to the table that nothing is evicted from. All of it, or nothing.
func (n *Node) confirm(t Tuple, r *Record) bool {
	tables := n.tables(t)
	m := tables.pending.other(t, r)
	if m == nil {
		return false
	}
	client := *r
	client.State |= bpf.StateConfirmed
	m.State |= bpf.StateConfirmed
	mirror, half := r.mirror(t), egressHalf(t, r)
	split := r.is(bpf.FlowSplit)
	reply := *m
	reply.Src, reply.Dst = t.Dst, t.Src
	if !tables.confirmed.insert(mirror, reply) ||
		split && !n.insertEgressHalf(tables.confirmed, t, client) ||
		!tables.confirmed.insert(t, client) {
		tables.confirmed.remove(mirror)
		if split {
			tables.confirmed.remove(half)
		}
		n.event(bpf.VerdictFlowsFull)
		return false
	}
	tables.pending.remove(t)
	tables.pending.remove(mirror)
	if split {
		tables.pending.remove(half)
	}
	n.event(bpf.VerdictFlowConfirmed)
	return true
}

// repair makes anew what of a client's flow has been evicted. False: the backend knows another
// flow by its source now, so that it is none any more.
func (n *Node) repair(t Tuple, r *Record) bool {
	if r.is(bpf.FlowReply | bpf.FlowEgressHalf) {
		return true
	}
	pending := n.tables(t).pending
	if pending.other(t, r) == nil && n.restore(t, r) == nil {
		pending.remove(t)
		return false
	}
	if r.is(bpf.FlowSplit) && pending.get(egressHalf(t, r)) == nil {
		n.insertEgressHalf(pending, t, *r)
	}
	return true
}

// restore makes the lost half of a flow from the one that is left. Nil: something else is there.
func (n *Node) restore(t Tuple, r *Record) *Record {
	// not lost, but taken away with the endpoint: what comes from there is late
	if r.is(bpf.FlowReply) && t.Proto == UDP && !n.serves(r, t.Src) {
		return nil
	}
	tables, mirror := n.tables(t), r.mirror(t)
	if tables.pending.get(mirror) != nil || tables.confirmed.get(mirror) != nil {
		return nil
	}
	lost := *r
	lost.Src, lost.Dst, lost.Hop.Epoch = t.Dst, t.Src, 0
	switch {
	case !r.is(bpf.FlowReply):
		lost.Flags = replyFlags(r.Flags)
	case t.Egress:
		lost.Flags = bpf.FlowMirrorEgress
	case r.is(bpf.FlowSplit):
		lost.Flags = bpf.FlowSplit
	default:
		lost.Flags = bpf.FlowExpress
	}
	tables.pending.insert(mirror, lost)
	return tables.pending.get(mirror)
}

// serves: the endpoint that a record was made for still takes the packets of flows that it has.
func (n *Node) serves(r *Record, a netip.AddrPort) bool {
	b := n.Backends[r.Backend]
	return b != nil && b.Service == r.Service && b.Addr == a && (b.InCluster || b.InSelf || b.Kept)
}

// Stale forgets the clients' halves of UDP flows whose endpoints no longer serve. Where the same
// endpoint has become another backend of whom the frontend leads to, they stay.
func (n *Node) Stale() {
	for _, tables := range n.byFamily {
		for _, table := range []*Table{tables.pending, tables.confirmed} {
			for t, r := range table.Records {
				if t.Proto == UDP && !r.is(bpf.FlowReply|bpf.FlowEgressHalf) && !n.serves(r, r.Dst) && !n.leadsTo(t, r.Dst) {
					table.remove(t)
				}
			}
		}
	}
}

func (n *Node) leadsTo(t Tuple, to netip.AddrPort) bool {
	policy := n.frontend(t.Dst, t.Proto)
	if policy == nil {
		return false
	}
	for _, inside := range []bool{false, true} {
		for _, b := range n.candidates(policy, inside) {
			if b.Addr == to {
				return true
			}
		}
	}
	return false
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// An ACK further ahead than this is not from the receiver of the SYN-ACK.
const ackWindow = 65536

// other returns the other half of a flow, if it is not lost.
func (n *Node) other(k Tuple, r *Record) *Record {
	m := n.table(k)[r.mirror(k)]
	if m != nil && m.mirrors(k, r.is(bpf.FlowSplitSource)) {
		return m
	}
	return nil
}

// follow updates a flow's state by a packet.
func (n *Node) follow(r *Record, p *packet) {
	r.Seen = max(r.Seen, n.Clock)
	if p.part == later {
		return
	}
	if p.flags&(Fin|Rst) != 0 {
		n.followClose(r, p)
	}
	switch {
	case r.isConfirmed() || r.is(bpf.FlowSplitSource):
	case r.is(bpf.FlowReply):
		n.followAnswer(r, p)
	case acknowledges(r, p):
		n.confirm(p.tuple, r)
	}
}

// followClose marks a FIN or a reset in both halves, whichever saw it.
func (n *Node) followClose(r *Record, p *packet) {
	bit := bpf.StateFinClient
	if r.is(bpf.FlowReply) {
		bit = bpf.StateFinBackend
	}
	if p.flags&Rst != 0 {
		bit = bpf.StateReset
	}
	if r.State&bit != 0 {
		return
	}
	client, m := r, n.other(p.tuple, r)
	if m != nil && r.is(bpf.FlowReply) {
		client = m
	}
	before := client.closed()
	r.State |= bit
	if m != nil {
		m.State |= bit
	}
	if !r.is(bpf.FlowSplitSource|bpf.FlowForeign) && !before && client.closed() {
		n.event(bpf.VerdictFlowClosed)
	}
}

// provesNothing reports whether a packet may come from a host without the association: SCTP's
// shutdown chunks may.
func provesNothing(p *packet) bool {
	return p.flags&Rst != 0 || p.proto() == SCTP && p.flags&Fin != 0
}

// followAnswer notes which acknowledgement the backend's packet asks for.
func (n *Node) followAnswer(r *Record, p *packet) {
	if provesNothing(p) {
		return
	}
	m := n.other(p.tuple, r)
	if m != nil && m.State&r.State&bpf.StateAnswered != 0 && p.flags&Syn == 0 {
		return
	}
	if m == nil {
		m = n.restore(p.tuple, r)
	}
	if m == nil {
		return
	}
	m.Expect = p.seq
	if p.flags&Syn != 0 {
		m.Expect++
	}
	m.State |= bpf.StateAnswered
	r.State |= bpf.StateAnswered
}

func acknowledges(r *Record, p *packet) bool {
	switch {
	case r.State&bpf.StateAnswered == 0 || provesNothing(p):
		return false
	case p.proto() == UDP:
		return true
	case p.flags&(Ack|Syn) != Ack:
		return false
	case p.proto() == SCTP:
		return r.Expect == 0 || p.ack == r.Expect
	}
	return p.ack-r.Expect < ackWindow
}

// confirm marks a flow as confirmed: from now on none of its records gives way.
func (n *Node) confirm(t Tuple, r *Record) {
	records := []*Record{r, n.other(t, r)}
	if r.is(bpf.FlowSplit) {
		records = append(records, n.table(t)[splitSource(t, r)])
	}
	for _, one := range records {
		one.State |= bpf.StateConfirmed
	}
	n.event(bpf.VerdictFlowConfirmed)
}

// repair restores evicted records of a client's flow, and notes that an answer may come. It returns false if the backend knows another
// flow by its source by now, so that this flow no longer exists.
func (n *Node) repair(t Tuple, r *Record) bool {
	if r.is(bpf.FlowReply | bpf.FlowSplitSource) {
		return true
	}
	m := n.other(t, r)
	if m == nil {
		m = n.restore(t, r)
	}
	if m == nil {
		return false
	}
	m.Seen = max(m.Seen, n.Clock)
	if n.table(t)[splitSource(t, r)] == nil {
		n.insertSplitSource(t, r)
	}
	return true
}

// restore makes the lost half of a flow from the remaining one. It returns nil if another record is
// there.
func (n *Node) restore(t Tuple, r *Record) *Record {
	// not lost, but removed with the endpoint: packets from there are late
	if r.is(bpf.FlowReply) && t.Proto == UDP && !n.serves(r, t.Src) {
		return nil
	}
	table, mirror := n.table(t), r.mirror(t)
	if table[mirror] != nil {
		return nil
	}
	lost := *r
	lost.Src, lost.Dst, lost.Hop, lost.In, lost.Seen = t.Dst, t.Src, HopKey{}, 0, n.Clock
	zone := uint16(t.Zone) * bpf.FlowMirrorZone
	switch {
	case !r.is(bpf.FlowReply):
		lost.Flags, lost.In = replyFlags(r.Flags, t.Zone), n.cameIn(r.Flags, t.Zone)
	case !r.is(bpf.FlowExpress):
		lost.Flags = zone | r.Flags&bpf.FlowBegun
	case r.is(bpf.FlowSplit):
		lost.Flags = bpf.FlowSplit | zone
	default:
		lost.Flags = bpf.FlowExpress | r.Flags&bpf.FlowTurn | zone
	}
	return table.insert(mirror, lost)
}

// serves reports whether the endpoint that a record was made for still serves its flows.
func (n *Node) serves(r *Record, a netip.AddrPort) bool {
	b := n.Backends[r.Backend]
	return b != nil && b.Service == r.Service && b.Addr == a && (b.InCluster || b.InSelf || b.Kept)
}

// Stale removes the clients' halves of UDP flows whose endpoints no longer serve. A half stays if
// its endpoint is another backend by now, to which the frontend leads.
func (n *Node) Stale() {
	for _, table := range n.byFamily {
		for t, r := range table {
			if t.Proto == UDP && t.Zone != bpf.ZoneLeaving && !r.is(bpf.FlowReply) && !n.serves(r, r.Dst) && !n.leadsTo(t, r.Dst) {
				delete(table, t)
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

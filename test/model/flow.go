// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// Tuple is what tells the packets of a flow, at the hooks where they enter the node or at those
// where they leave it.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8
	Egress   bool
}

func (t Tuple) String() string {
	at := ""
	if t.Egress {
		at = " egress"
	}
	return fmt.Sprintf("%s>%s/%d%s", t.Src, t.Dst, t.Proto, at)
}

func (t Tuple) withPorts(src, dst uint16) Tuple {
	t.Src = netip.AddrPortFrom(t.Src.Addr(), src)
	t.Dst = netip.AddrPortFrom(t.Dst.Addr(), dst)
	return t
}

// reversed is the tuple of what answers.
func (t Tuple) reversed(egress bool) Tuple { return Tuple{t.Dst, t.Src, t.Proto, egress} }

// Hop is where a record's packets go.
type Hop struct {
	Epoch      uint32
	Device     int
	DMAC, SMAC [6]byte
	MTU        int
}

// Record is what becomes of a tuple's packets. Flags and State are those of docs/maps.md.
type Record struct {
	Src, Dst         netip.AddrPort // what they are rewritten to
	Service, Backend uint32
	Seen             int    // seconds
	Expect           uint32 // what confirms that the answer was received
	State            uint32
	Flags            uint16
	Hop              Hop
}

func (r *Record) is(flag uint16) bool { return r.Flags&flag != 0 }

// to is the tuple of a rewritten packet.
func (r *Record) to(t Tuple) Tuple { return Tuple{r.Src, r.Dst, t.Proto, t.Egress} }

// mirror is the tuple under which the other half of a flow is recorded: that of the answer to the
// rewritten packet.
func (r *Record) mirror(t Tuple) Tuple {
	return r.to(t).reversed(r.is(bpf.FlowMirrorEgress))
}

// mirrors: this record undoes what the one of t does. Those of packets between the two hooks of a
// split flow are undone by a record that leads back to the client, whatever it translates.
func (r *Record) mirrors(t Tuple, egressHalf bool) bool {
	if egressHalf {
		return r.Dst.Addr() == t.Src.Addr()
	}
	return r.Dst == t.Src && r.Src == t.Dst
}

func (r *Record) closed() bool {
	both := bpf.StateFinClient | bpf.StateFinBackend
	return r.State&bpf.StateReset != 0 || r.State&both == both
}

// Table is one of the two that flows of a family stand in.
type Table struct {
	Records map[Tuple]*Record
	Max     int // 0: no limit, the oldest give way
}

func newTable(limit int) *Table { return &Table{make(map[Tuple]*Record), limit} }

func (t *Table) get(k Tuple) *Record { return t.Records[k] }

func (t *Table) remove(k Tuple) { delete(t.Records, k) }

// insert is false where there is no room left.
func (t *Table) insert(k Tuple, r Record) bool {
	if t.Max > 0 && t.Records[k] == nil && len(t.Records) >= t.Max {
		return false
	}
	t.Records[k] = &r
	return true
}

// timeout is how long a record outlives its last packet.
func (n *Node) timeout(r *Record, proto uint8) int {
	both := bpf.StateFinClient | bpf.StateFinBackend
	switch {
	case proto == UDP && r.State&bpf.StateAnswered != 0:
		return n.UDP
	case proto == UDP:
		return n.New
	case r.State&bpf.StateReset != 0:
		return n.Reset
	case r.State&both == both:
		return n.Closed
	case r.State&bpf.StateConfirmed == 0:
		return n.New
	case r.State&both != 0:
		return n.HalfClosed
	}
	return n.TCP
}

// stale: its own time is over. Time moves on in steps that end a little late, so none ends on a
// record's last moment.
func (n *Node) stale(r *Record, proto uint8) bool {
	return n.Clock > r.Seen && n.Clock-r.Seen >= n.timeout(r, proto)
}

// dead: the flow's time is over, which either half's packets make longer.
func (n *Node) dead(table *Table, t Tuple, r *Record) bool {
	half := r.is(bpf.FlowEgressHalf)
	if !half && !n.stale(r, t.Proto) {
		return false
	}
	m := table.get(r.mirror(t))
	if m == nil || !m.mirrors(t, half) {
		return true
	}
	return n.stale(r, t.Proto) && n.stale(m, t.Proto)
}

// ended: it must not be used any more. On a closed connection a SYN from the client starts anew,
// and so does a SYN-ACK from a backend, which has got a SYN on another way. To our own address
// there is no other way.
func (n *Node) ended(table *Table, t Tuple, r *Record, flags uint8) bool {
	if n.stale(r, t.Proto) {
		return n.dead(table, t, r)
	}
	start := uint8(Syn)
	if r.is(bpf.FlowReply) {
		start = Syn | Ack
	}
	translated := r.is(bpf.FlowReply) && r.is(bpf.FlowExpress)
	return flags&(Syn|Ack) == start && r.closed() && !r.is(bpf.FlowEgressHalf) && !translated
}

// find looks up what can still be used; what can't is forgotten.
func (n *Node) find(table *Table, t Tuple, flags uint8) *Record {
	r := table.get(t)
	if r != nil && n.ended(table, t, r, flags) {
		table.remove(t)
		return nil
	}
	return r
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// Tuple identifies the packets of a flow at the hooks of one zone.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8
	Zone     bpf.Zone
}

func (t Tuple) String() string {
	return fmt.Sprintf("%s>%s/%d %s", t.Src, t.Dst, t.Proto, bpf.ZoneName(t.Zone))
}

func (t Tuple) withPorts(src, dst uint16) Tuple {
	t.Src = netip.AddrPortFrom(t.Src.Addr(), src)
	t.Dst = netip.AddrPortFrom(t.Dst.Addr(), dst)
	return t
}

// reversed returns the tuple of answers, which are seen in a zone.
func (t Tuple) reversed(zone bpf.Zone) Tuple { return Tuple{t.Dst, t.Src, t.Proto, zone} }

// Record is the rewrite of a tuple's packets. Flags and State are those of docs/maps.md.
type Record struct {
	Src, Dst         netip.AddrPort // what they are rewritten to
	Service, Backend uint32
	Seen             int    // seconds
	Expect           uint32 // what confirms that the client got the answer, if there was one
	State            uint32
	Flags            uint16
	Hop              HopKey // as it was last known
	In               int    // for answers that the kernel routes: the device of the requests
}

func (r *Record) is(flag uint16) bool { return r.Flags&flag != 0 }

func (r *Record) isConfirmed() bool { return r.State&bpf.StateConfirmed != 0 }

// to returns the tuple of a rewritten packet.
func (r *Record) to(t Tuple) Tuple { return Tuple{r.Src, r.Dst, t.Proto, t.Zone} }

// mirrorZone returns the zone of the other half's packets.
func (r *Record) mirrorZone() bpf.Zone {
	return bpf.Zone(r.Flags & bpf.FlowMirrorZoneMask / bpf.FlowMirrorZone)
}

// mirror returns the tuple of the other half of a flow: that of the answer to the rewritten packet.
func (r *Record) mirror(t Tuple) Tuple { return r.to(t).reversed(r.mirrorZone()) }

// mirrors reports whether this record undoes that of t. Packets between the two hooks of a split
// flow are undone by a record that leads back to the client, whatever it translates.
func (r *Record) mirrors(t Tuple, splitSource bool) bool {
	if splitSource {
		return r.Dst.Addr() == t.Src.Addr()
	}
	return r.Dst == t.Src && r.Src == t.Dst && r.mirrorZone() == t.Zone
}

func (r *Record) closed() bool {
	both := bpf.StateFinClient | bpf.StateFinBackend
	return r.State&bpf.StateReset != 0 || r.State&both == both
}

// Table holds the flows of a family. It never fills: full tables have tests of their own.
type Table map[Tuple]*Record

func (t Table) insert(k Tuple, r Record) *Record {
	t[k] = &r
	return &r
}

// timeout returns how long a record outlives its last packet.
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

// stale reports whether a record's own time is over. Time moves in steps that end a little late, so
// no step ends on a record's last moment.
func (n *Node) stale(r *Record, proto uint8) bool {
	return n.Clock > r.Seen && n.Clock-r.Seen >= n.timeout(r, proto)
}

// dead reports whether a flow's time is over. The packets of either half extend it.
func (n *Node) dead(t Tuple, r *Record) bool {
	if !r.is(bpf.FlowSplitSource) && !n.stale(r, t.Proto) {
		return false
	}
	m := n.other(t, r)
	return m == nil || n.stale(r, t.Proto) && n.stale(m, t.Proto)
}

// startsAnew reports whether a packet starts a closed connection anew: a SYN from the client does,
// and so does a SYN-ACK from a backend, which has got a SYN on another way. For our own address
// there is no other way.
func startsAnew(r *Record, flags uint8) bool {
	start := uint8(Syn)
	if r.is(bpf.FlowReply) {
		start = Syn | Ack
	}
	translated := r.is(bpf.FlowReply) && r.is(bpf.FlowExpress)
	return flags&(Syn|Ack) == start && r.closed() && !r.is(bpf.FlowSplitSource) && !translated
}

// isDue reports whether a packet changes the flow's state. Most packets of an established flow
// don't.
func (n *Node) isDue(r *Record, flags uint8) bool {
	return flags&(Syn|Fin|Rst) != 0 || !r.isConfirmed() || n.Clock > r.Seen
}

// find looks up a usable record. It removes one that is not usable.
func (n *Node) find(p *packet) *Record {
	t, table := p.tuple, n.table(p.tuple)
	r := table[t]
	switch {
	case r == nil || !n.isDue(r, p.flags):
		return r
	case startsAnew(r, p.flags) || n.dead(t, r):
		delete(table, t)
		return nil
	case p.answersDirectly(r):
		return n.giveToDirect(t, r)
	case !r.isConfirmed() && !n.repair(t, r):
		delete(table, t)
		return nil
	}
	return r
}

// answersDirectly reports whether an endpoint answers a SYN by something else than a SYN-ACK or a
// reset: it has a connection with this tuple, which the client has opened directly.
func (p *packet) answersDirectly(r *Record) bool {
	answered := r.State&(bpf.StateAnswered|bpf.StateConfirmed) != 0
	return r.is(bpf.FlowReply) && r.is(bpf.FlowBegun) && !r.is(bpf.FlowExpress) && !answered &&
		p.part != later && p.flags&(Syn|Rst) == 0
}

// giveToDirect records the direct connection in place of the flow to the service.
func (n *Node) giveToDirect(t Tuple, r *Record) *Record {
	return n.table(t).insert(t, Record{
		Src: t.Src, Dst: t.Dst, Seen: n.Clock, Flags: bpf.FlowReply | r.Flags&bpf.FlowMirrorZoneMask,
	})
}

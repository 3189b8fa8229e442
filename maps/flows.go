// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Tuple is the addresses and ports of a packet, with the zone where hooks see it.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8    // IPPROTO_*
	Zone     bpf.Zone // where packets with this tuple are seen
}

// Flow is one record: the key of its packets, and their rewrite.
type Flow struct {
	Key      Tuple
	To       Tuple
	Service  uint32
	Backend  uint32
	LastSeen uint32  // jiffies
	State    uint32  // bpf.State*
	Flags    uint16  // bpf.Flow*
	NextHop  NextHop // the zero value: never looked up, or looked up before a route changed
}

// Flows calls fn for each record of one family until it returns false. It may miss records that come
// or go meanwhile.
func Flows(p Provider, f Family, fn func(Flow) bool) error {
	hops, err := ReadNextHops(p)
	if err != nil {
		return err
	}
	return walkSets(p, f, 0, func(flow Flow, hop uint64) bool {
		if known, ok := hops[uint32(hop)&hopIndexMask]; ok && known.Generation == uint32(hop>>32) {
			flow.NextHop = known
		}
		return fn(flow)
	})
}

// Foreign calls fn for each record of a connection that is left to another translator. NextHop is
// zero: such a record has none. Foreign may miss records that come or go meanwhile.
func Foreign(p Provider, f Family, fn func(Flow)) error {
	return walkSets(p, f, bpf.FlowForeign, func(flow Flow, _ uint64) bool {
		fn(flow)
		return true
	})
}

// hopIndexMask are the bits of a record's next hop that are an index of nexthops.
const hopIndexMask = 0xffffff

// walkSets calls fn with each record that has all of flags, and with its next hop, until fn returns
// false.
func walkSets(p Provider, f Family, flags uint16, fn func(Flow, uint64) bool) error {
	m, name := pick(p, "flows", f), fmt.Sprintf("flows%d", f)
	if f == IPv4 {
		return someSets(m, name, func(set *bpf.FlowSet4) bool { return records4(set, flags, fn) })
	}
	return someSets(m, name, func(set *bpf.FlowSet6) bool { return records6(set, flags, fn) })
}

// someSets reads a few sets at a time: a table is large, and the caller may stop early.
func someSets[V any](m *ebpf.Map, name string, fn func(*V) bool) error {
	for set, err := range values[uint32, V](m, name) {
		if err != nil {
			return err
		}
		if !fn(set) {
			break
		}
	}
	return nil
}

func records4(set *bpf.FlowSet4, flags uint16, fn func(Flow, uint64) bool) bool {
	for i, tag := range set.Ways.Tag {
		r := &set.At[i]
		if !isLive(tag) || r.Flow.Flags&flags != flags {
			continue
		}
		f := decodeFlow(&r.Flow, tag)
		f.Key = tuple(addr4(r.Saddr), addr4(r.Daddr), r.Flow.Sport, r.Flow.Dport, &r.Flow)
		f.To = tuple(addr4(r.ToSaddr), addr4(r.ToDaddr), r.Flow.ToSport, r.Flow.ToDport, &r.Flow)
		if !fn(f, r.Flow.Hop) {
			return false
		}
	}
	return true
}

func records6(set *bpf.FlowSet6, flags uint16, fn func(Flow, uint64) bool) bool {
	for i, tag := range set.Ways.Tag {
		r := &set.At[i]
		if !isLive(tag) || r.Flow.Flags&flags != flags {
			continue
		}
		f := decodeFlow(&r.Flow, tag)
		f.Key = tuple(addr6(r.Saddr), addr6(r.Daddr), r.Flow.Sport, r.Flow.Dport, &r.Flow)
		f.To = tuple(addr6(r.ToSaddr), addr6(r.ToDaddr), r.Flow.ToSport, r.Flow.ToDport, &r.Flow)
		if !fn(f, r.Flow.Hop) {
			return false
		}
	}
	return true
}

// Closed reports whether FINs of both sides, or a reset, have ended the flow.
func (f Flow) Closed() bool {
	const fins = bpf.StateFinClient | bpf.StateFinBackend
	return f.State&bpf.StateReset != 0 || f.State&fins == fins
}

// Confirmed reports whether the flow's client has acknowledged its backend's answer.
func (f Flow) Confirmed() bool { return f.State&bpf.StateConfirmed != 0 }

// Others returns the other records of a flow, computed from its client's record f: keys, rewrites and
// flags as in bpf/flow.h, with the state of f.
func (f Flow) Others() []Flow {
	zone := func(flags uint16) bpf.Zone { return bpf.Zone(flags & bpf.FlowMirrorZoneMask / bpf.FlowMirrorZone) }
	reply := f
	reply.Key = Tuple{Src: f.To.Dst, Dst: f.To.Src, Proto: f.Key.Proto, Zone: zone(f.Flags)}
	reply.To = Tuple{Src: f.Key.Dst, Dst: f.Key.Src, Proto: f.Key.Proto, Zone: reply.Key.Zone}
	reply.Flags = bpf.FlowReply | uint16(f.Key.Zone)*bpf.FlowMirrorZone
	if f.Flags&(bpf.FlowExpress|bpf.FlowSplit) != 0 {
		reply.Flags |= bpf.FlowExpress | f.Flags&(bpf.FlowSplit|bpf.FlowTurn)
	}
	if f.Flags&bpf.FlowSplit == 0 {
		return []Flow{reply}
	}
	source := f
	source.Key = Tuple{
		Src: netip.AddrPortFrom(f.Key.Src.Addr(), f.To.Src.Port()), Dst: f.To.Dst,
		Proto: f.Key.Proto, Zone: bpf.ZoneLeaving,
	}
	source.Flags = bpf.FlowSplitSource | f.Flags&bpf.FlowMirrorZoneMask
	return []Flow{reply, source}
}

func isLive(tag uint32) bool { return tag&bpf.WayMask == bpf.WayLive }

func decodeFlow(v *bpf.Flow, tag uint32) Flow {
	return Flow{
		Service: v.Service, Backend: v.Backend, LastSeen: v.LastSeen,
		State: tag & bpf.StateMask, Flags: v.Flags,
	}
}

func tuple(src, dst netip.Addr, sport, dport uint16, v *bpf.Flow) Tuple {
	return Tuple{
		Src:   netip.AddrPortFrom(src, netPort(sport)),
		Dst:   netip.AddrPortFrom(dst, netPort(dport)),
		Proto: v.Proto,
		Zone:  bpf.Zone(v.Zone),
	}
}

// Adoption returns f for the programs of bpf/adopt.c. It leaves out the time of the last packet, which
// is taken to be now, and the next hop.
func (f Flow) Adoption() bpf.Adoption {
	a := bpf.Adoption{Key: f.Key.encode(), To: f.To.encode(), Family: unix.AF_INET, State: f.State, Flags: f.Flags}
	if FamilyOf(f.Key.Src.Addr()) == IPv6 {
		a.Family = unix.AF_INET6
	}
	return a
}

func (t Tuple) encode() bpf.Tuple {
	return bpf.Tuple{
		Saddr: bpf.Addr{Word: wordsOf(t.Src.Addr())}, Daddr: bpf.Addr{Word: wordsOf(t.Dst.Addr())},
		Sport: netPort(t.Src.Port()), Dport: netPort(t.Dst.Port()), Proto: t.Proto, Zone: uint8(t.Zone),
	}
}

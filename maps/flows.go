// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Tuple is a packet's addresses as seen at one kind of hook.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8    // IPPROTO_*
	Zone     bpf.Zone // where packets with it are seen
}

// Flow is one record: the packets that carry its key, and what becomes of them.
type Flow struct {
	Key      Tuple
	To       Tuple
	Service  uint32
	Backend  uint32
	LastSeen uint32  // jiffies
	State    uint32  // bpf.State*
	Flags    uint16  // bpf.Flow*
	NextHop  NextHop // the zero value: never asked for, or asked for before a route changed
}

// Flows calls fn for each record of one family until it returns false. Records that come or go
// meanwhile may be missed.
func Flows(p Provider, f Family, fn func(Flow) bool) error {
	hops, err := ReadNextHops(p)
	if err != nil {
		return err
	}
	walk := walkSets4
	if f == IPv6 {
		walk = walkSets6
	}
	err = walk(pick(p, "flows", f).Iterate(), func(flow Flow, hop uint64) bool {
		if known, ok := hops[uint32(hop)&hopIndexMask]; ok && known.Generation == uint32(hop>>32) {
			flow.NextHop = known
		}
		return fn(flow)
	})
	if err != nil {
		return fmt.Errorf("reading the map flows%d: %w", f, err)
	}
	return nil
}

// hopIndexMask are the bits of a record's next hop that are an index of nexthops.
const hopIndexMask = 0xffffff

func walkSets4(it *ebpf.MapIterator, fn func(Flow, uint64) bool) error {
	var index uint32
	var set bpf.FlowSet4
	for it.Next(&index, &set) {
		for i, tag := range set.Ways.Tag {
			if !isLive(tag) {
				continue
			}
			r := &set.At[i]
			f := decodeFlow(&r.Flow, tag)
			f.Key = tuple(addr4(r.Saddr), addr4(r.Daddr), r.Flow.Sport, r.Flow.Dport, &r.Flow)
			f.To = tuple(addr4(r.ToSaddr), addr4(r.ToDaddr), r.Flow.ToSport, r.Flow.ToDport, &r.Flow)
			if !fn(f, r.Flow.Hop) {
				return nil
			}
		}
	}
	return it.Err()
}

func walkSets6(it *ebpf.MapIterator, fn func(Flow, uint64) bool) error {
	var index uint32
	var set bpf.FlowSet6
	for it.Next(&index, &set) {
		for i, tag := range set.Ways.Tag {
			if !isLive(tag) {
				continue
			}
			r := &set.At[i]
			f := decodeFlow(&r.Flow, tag)
			f.Key = tuple(addr6(r.Saddr), addr6(r.Daddr), r.Flow.Sport, r.Flow.Dport, &r.Flow)
			f.To = tuple(addr6(r.ToSaddr), addr6(r.ToDaddr), r.Flow.ToSport, r.Flow.ToDport, &r.Flow)
			if !fn(f, r.Flow.Hop) {
				return nil
			}
		}
	}
	return it.Err()
}

// Confirmed tells whether the flow's client has acknowledged its backend's answer.
func (f Flow) Confirmed() bool { return f.State&bpf.StateConfirmed != 0 }

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

// Adoption is what the program waggle_adopt makes a record of: all of f but its last packet, which
// is taken for seen now, and its next hop.
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

// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Tuple is a packet's addresses as seen at one hook direction.
type Tuple struct {
	Src, Dst netip.AddrPort
	Proto    uint8 // IPPROTO_*
	Egress   bool  // seen where packets leave the node
}

// Flow is one record: the packets that carry its key, and what becomes of them.
type Flow struct {
	Key       Tuple
	To        Tuple
	Confirmed bool // in `flows`, not in `flows_new`
	Service   uint32
	Backend   uint32
	LastSeen  uint32 // jiffies
	State     uint32 // bpf.State*
	Flags     uint16 // bpf.Flow*
	Ifindex   int    // of the next hop; 0: never asked for
	NextHop   net.HardwareAddr
}

// Flows calls fn for each record of one family, first the confirmed ones, until it returns
// false. Records that come or go meanwhile may be missed.
func Flows(p Provider, f Family, fn func(Flow) bool) error {
	more, err := walkFlows(pick(p, "flows", f).Iterate(), f, func(flow Flow) bool {
		flow.Confirmed = true
		return fn(flow)
	})
	if err != nil && !errors.Is(err, ebpf.ErrIterationAborted) {
		return fmt.Errorf("reading the map flows%d: %w", f, err)
	}
	if !more {
		return nil
	}
	if err := walkNewFlows(pick(p, "flows_new", f).Iterate(), f, fn); err != nil {
		return fmt.Errorf("reading the map flows_new%d: %w", f, err)
	}
	return nil
}

func walkFlows(it *ebpf.MapIterator, f Family, fn func(Flow) bool) (more bool, err error) {
	if f == IPv4 {
		var key bpf.FlowKey4
		var value bpf.Flow4
		for it.Next(&key, &value) {
			if !fn(decodeFlow4(&key, &value)) {
				return false, nil
			}
		}
		return true, it.Err()
	}
	var key bpf.FlowKey6
	var value bpf.Flow6
	for it.Next(&key, &value) {
		if !fn(decodeFlow6(&key, &value)) {
			return false, nil
		}
	}
	return true, it.Err()
}

func walkNewFlows(it *ebpf.MapIterator, f Family, fn func(Flow) bool) error {
	var index uint32
	if f == IPv4 {
		var set bpf.FlowSet4
		for it.Next(&index, &set) {
			for i, tag := range set.Ways.Tag {
				if bpf.WayHolds(tag) && !fn(decodeFlow4(&set.At[i].Key, &set.At[i].Flow)) {
					return nil
				}
			}
		}
		return it.Err()
	}
	var set bpf.FlowSet6
	for it.Next(&index, &set) {
		for i, tag := range set.Ways.Tag {
			if bpf.WayHolds(tag) && !fn(decodeFlow6(&set.At[i].Key, &set.At[i].Flow)) {
				return nil
			}
		}
	}
	return it.Err()
}

// AddFlow puts a record into the table of confirmed flows, unless there is one of that key. It
// tells whether it did. The next hop is left out.
func AddFlow(p Provider, f Flow) (added bool, err error) {
	value := bpf.Flow{
		Service: f.Service, Backend: f.Backend, LastSeen: f.LastSeen, State: f.State, Flags: f.Flags,
		Sport: netPort(f.To.Src.Port()), Dport: netPort(f.To.Dst.Port()),
	}
	egress := uint8(0)
	if f.Key.Egress {
		egress = 1
	}
	src, dst := f.Key.Src, f.Key.Dst
	family := FamilyOf(src.Addr())
	m := pick(p, "flows", family)
	if family == IPv4 {
		err = m.Update(bpf.FlowKey4{
			Saddr: word4(src.Addr()), Daddr: word4(dst.Addr()),
			Sport: netPort(src.Port()), Dport: netPort(dst.Port()), Proto: f.Key.Proto, Egress: egress,
		}, bpf.Flow4{Flow: value, Saddr: word4(f.To.Src.Addr()), Daddr: word4(f.To.Dst.Addr())}, ebpf.UpdateNoExist)
	} else {
		err = m.Update(bpf.FlowKey6{
			Saddr: words6(src.Addr()), Daddr: words6(dst.Addr()),
			Sport: netPort(src.Port()), Dport: netPort(dst.Port()), Proto: f.Key.Proto, Egress: egress,
		}, bpf.Flow6{Flow: value, Saddr: words6(f.To.Src.Addr()), Daddr: words6(f.To.Dst.Addr())}, ebpf.UpdateNoExist)
	}
	if errors.Is(err, ebpf.ErrKeyExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("writing the map flows%d: %w", family, err)
	}
	return true, nil
}

func decodeFlow4(k *bpf.FlowKey4, v *bpf.Flow4) Flow {
	f := decodeFlow(&v.Flow)
	f.Key = tuple(addr4(k.Saddr), addr4(k.Daddr), k.Sport, k.Dport, k.Proto, k.Egress)
	f.To = tuple(addr4(v.Saddr), addr4(v.Daddr), v.Flow.Sport, v.Flow.Dport, k.Proto, k.Egress)
	return f
}

func decodeFlow6(k *bpf.FlowKey6, v *bpf.Flow6) Flow {
	f := decodeFlow(&v.Flow)
	f.Key = tuple(addr6(k.Saddr), addr6(k.Daddr), k.Sport, k.Dport, k.Proto, k.Egress)
	f.To = tuple(addr6(v.Saddr), addr6(v.Daddr), v.Flow.Sport, v.Flow.Dport, k.Proto, k.Egress)
	return f
}

func decodeFlow(v *bpf.Flow) Flow {
	return Flow{
		Service:  v.Service,
		Backend:  v.Backend,
		LastSeen: v.LastSeen,
		State:    v.State,
		Flags:    v.Flags,
		Ifindex:  int(v.Hop.Ifindex),
		NextHop:  net.HardwareAddr(append([]byte(nil), v.Hop.Dmac[:]...)),
	}
}

func tuple(src, dst netip.Addr, sport, dport uint16, proto, egress uint8) Tuple {
	return Tuple{
		Src:    netip.AddrPortFrom(src, netPort(sport)),
		Dst:    netip.AddrPortFrom(dst, netPort(dport)),
		Proto:  proto,
		Egress: egress != 0,
	}
}

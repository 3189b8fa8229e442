// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"encoding/binary"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// rested is the time when ids and blocks given back at the start may be used again.
var rested = start.Add(time.Second)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func expectError(t *testing.T, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("got error %v\nwant %s", err, want)
	}
}

func expect[T any](t *testing.T, what string, got, want T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func addr(s string) netip.Addr { return netip.MustParseAddr(s) }

func TestSlots(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"slots": 1000})
	slots, err := maps.NewSlots(p)
	must(t, err)
	ids := []uint32{7, 7, 1 << 30, 9, 1}
	block, err := slots.Publish(ids, start)
	must(t, err)
	expect(t, "the block's size", block.Count, 5)
	expect(t, "what the datapath reads", readSlots(t, p, block), ids)
	read, err := slots.Read(block)
	must(t, err)
	expect(t, "what Read returns", read, ids)
	read, err = maps.ReadSlots(p, block)
	must(t, err)
	expect(t, "what ReadSlots returns", read, ids)
	none, err := slots.Publish(nil, start)
	must(t, err)
	expect(t, "the block of no backends", none, maps.Block{})
}

// readSlots reads as a program does: element by element.
func readSlots(t *testing.T, p maps.Provider, block maps.Block) []uint32 {
	t.Helper()
	var ids []uint32
	for i := range block.Count {
		var id uint32
		must(t, p.Map("slots").Lookup(block.First+i, &id))
		ids = append(ids, id)
	}
	return ids
}

// A block that a packet may be reading is not written to. Only if there is no other room, the
// allocator waits for the running programs, and then uses such a block.
func TestSlotsRest(t *testing.T) {
	slots, err := maps.NewSlots(mapstest.New(t, map[string]uint32{"slots": 8}))
	must(t, err)
	waits := maps.CountWaits(slots)
	block, err := slots.Publish(make([]uint32, 4), start)
	must(t, err)
	slots.Free(block, start)
	other, err := slots.Publish(make([]uint32, 4), rested.Add(-1))
	must(t, err)
	if other == block || *waits != 0 {
		t.Errorf("the resting block %v was given out as %v, after %d waits", block, other, *waits)
	}
	_, err = slots.Publish([]uint32{1}, rested.Add(-1))
	must(t, err)
	expect(t, "waits for the programs", *waits, 1)
	_, err = slots.Publish(make([]uint32, 4), rested.Add(-1))
	expectError(t, err, "no 4 contiguous slots are free of 8")
	expect(t, "waits, of which one more would bring nothing", *waits, 1)
	slots.Free(other, rested)
	_, err = slots.Publish(make([]uint32, 4), rested.Add(time.Second))
	must(t, err)
	expect(t, "waits, none after the grace period", *waits, 1)
}

// Three services with 5,000 endpoints each change every 20 ms, in a map of the default size: within
// the grace period they need more blocks than there are.
func TestSlotsOfLargeServicesFindRoom(t *testing.T) {
	const services, endpoints, second = 3, 5000, 50
	p := mapstest.New(t, map[string]uint32{"slots": 1 << 20})
	slots, err := maps.NewSlots(p)
	must(t, err)
	ids := make([]uint32, endpoints)
	var blocks [services]maps.Block
	for tick := range 3 * second {
		now := start.Add(time.Duration(tick) * time.Second / second)
		for i := range blocks {
			ids[tick%endpoints] = uint32(tick)
			block, err := slots.Publish(ids, now)
			if err != nil {
				t.Fatalf("change %d: %v", tick, err)
			}
			slots.Free(blocks[i], now)
			blocks[i] = block
		}
	}
	for _, block := range blocks {
		read, err := slots.Read(block)
		must(t, err)
		expect(t, "the slots of a service", read, ids)
	}
}

// The element of a program and the memory of the agent must agree on where each backend lies.
func TestBackends(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"backends": 5000})
	backends, err := maps.NewBackends(p)
	must(t, err)
	want := map[uint32]maps.Backend{}
	for i := range 4999 { // more than one batch
		b := maps.Backend{
			Addr: netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), Port: uint16(i + 1), Proto: unix.IPPROTO_TCP,
			Service: uint32(i + 1), Local: i%2 == 0, InCluster: true,
		}
		if i%3 == 0 {
			b.Addr, b.Proto = netip.AddrFrom16([16]byte{0xfd, 14: byte(i >> 8), 15: byte(i)}), unix.IPPROTO_UDP
		}
		id, err := backends.Add(b, start)
		must(t, err)
		want[id] = b
	}
	_, err = backends.Add(maps.Backend{Addr: addr("10.0.0.1"), Service: 1}, start)
	expectError(t, err, "out of backend ids: all 4999 are in use")
	got, err := backends.All()
	must(t, err)
	expect(t, "All", got, want)
	got, err = maps.ReadBackends(p)
	must(t, err)
	expect(t, "ReadBackends", got, want)
	expect(t, "InUse", backends.InUse(), 4999)
	for id, b := range want {
		var c bpf.Backend
		must(t, p.Map("backends").Lookup(id, &c))
		if c.Service != b.Service || c.Port != binary.NativeEndian.Uint16([]byte{byte(b.Port >> 8), byte(b.Port)}) {
			t.Fatalf("backend %d: a program reads %+v, want %+v", id, c, b)
		}
	}
}

// A backend that is removed keeps its address for packets that chose it a moment ago.
func TestBackendsRemove(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"backends": 2})
	backends, err := maps.NewBackends(p)
	must(t, err)
	b := maps.Backend{Addr: addr("10.0.0.1"), Port: 80, Proto: unix.IPPROTO_TCP, Service: 1, InCluster: true}
	id, err := backends.Add(b, start)
	must(t, err)
	must(t, backends.Remove(id, b, start))
	b.InCluster = false
	now := func(at time.Time, want map[uint32]maps.Backend) {
		t.Helper()
		backends.Collect(at)
		got, err := backends.All()
		must(t, err)
		expect(t, "backends", got, want)
	}
	now(start, map[uint32]maps.Backend{id: b})
	now(rested.Add(-1), map[uint32]maps.Backend{id: b})
	now(rested, map[uint32]maps.Backend{})
	_, err = backends.Add(b, rested.Add(time.Second))
	must(t, err)
}

func TestBackendsChangeInPlace(t *testing.T) {
	backends, err := maps.NewBackends(mapstest.New(t, nil))
	must(t, err)
	b := maps.Backend{Addr: addr("fd00::1"), Port: 80, Proto: unix.IPPROTO_TCP, Service: 1, InCluster: true}
	id, err := backends.Add(b, start)
	must(t, err)
	b.Local = true
	must(t, backends.Write(id, b))
	got, err := backends.All()
	must(t, err)
	expect(t, "backends", got, map[uint32]maps.Backend{id: b})
	if err := backends.Write(1<<20, b); err == nil {
		t.Error("a backend could be written outside of the array")
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// This file, and probe/own.h, are the only parts of the benchmarks that depend on the layout of the
// datapath's flow tables.

// flowRoom is the number of flows, of two records each, that make a table of a family half full.
type flowRoom struct {
	flows4, flows6 uint32
}

// errNoRoom means that a record was not made.
var errNoRoom = errors.New("not made")

// placeAll makes fn fill the flow tables, which it empties before, with one seed after the other,
// until each record finds a place in one of the few sets that it may be in. In a half full table,
// one in some millions of records finds none.
func placeAll(tables provider, fn func() error) (err error) {
	const odd = 0xd1342543de82ef95
	for try := range uint64(32) {
		if err := errors.Join(setSeed(tables.Map("runtime"), try*odd), empty(tables.Map("flows4")), empty(tables.Map("flows6"))); err != nil {
			return err
		}
		if err = fn(); !errors.Is(err, errNoRoom) {
			return err
		}
	}
	return err
}

func setSeed(runtime *ebpf.Map, seed uint64) error {
	var state bpf.RuntimeState
	if err := runtime.Lookup(uint32(0), &state); err != nil {
		return err
	}
	state.Seed = seed
	return runtime.Put(uint32(0), &state)
}

// empty ends all records of a table.
func empty(table *ebpf.Map) error {
	memory, err := table.Memory()
	if err != nil {
		return err
	}
	zeros, size := make([]byte, 1<<20), int(memory.Size())
	for at := 0; at < size; at += len(zeros) {
		if _, err := memory.WriteAt(zeros[:min(len(zeros), size-at)], int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// sizes are the max_entries of the maps.
func (r flowRoom) sizes() map[string]uint32 {
	return map[string]uint32{"flows4": bpf.SetsForFlows(max(r.flows4, 2)), "flows6": bpf.SetsForFlows(max(r.flows6, 2))}
}

// flowMaps are the maps that hold records, and those that a record depends on.
func flowMaps() []string { return []string{"flows4", "flows6", "runtime"} }

// filler makes records of established flows, as the datapath would have left them.
type filler struct {
	runner        // of programs over the datapath's maps
	hop    uint64 // the next hop of a record; 0: none, the record looks it up at its first use
}

// fill records the flows from first to last, without last; last is a power of two. It overwrites
// existing records.
func (r *filler) fill(f flows, first, last uint32) error {
	frame, err := f.frame(r.from, r.to)
	if err != nil {
		return err
	}
	moves := map[bool]uint32{true: 1}
	filling := probe.Filling{To: f.target(), Hop: r.hop, Flags: f.flags, SaddrMoves: moves[f.toSrc.addrs], DaddrMoves: moves[f.toDst.addrs],
		SportMoves: moves[f.toSrc.ports], DportMoves: moves[f.toDst.ports]}
	if err := r.Variables["filling"].Set(&filling); err != nil {
		return err
	}
	d := f.drive(frame, last)
	d.Stride, d.Next = 1, first
	if _, _, err := r.run(bpf.HookXDP, r.Programs["fill"+f.family()], d, last-first); err != nil {
		return fmt.Errorf("record flows: %w", err)
	}
	return nil
}

// fillBare puts as many keys into the kernel's table that the limits use.
func (r *filler) fillBare(f flows, count uint32) error {
	frame, err := f.frame(r.from, r.to)
	if err != nil {
		return err
	}
	d := f.drive(frame, count)
	d.Stride = 1
	if _, _, err := r.run(bpf.HookXDP, r.Programs["bare_fill"+f.family()], d, count); err != nil {
		return fmt.Errorf("fill the bare table: %w", err)
	}
	return nil
}

// makeHop makes an element of the table of next hops, and returns a record's reference to it.
func makeHop(p maps.Provider, hop bpf.Hop) (uint64, error) {
	const index = uint32(0)
	var state bpf.RuntimeState
	if err := p.Map("runtime").Lookup(uint32(0), &state); err != nil {
		return 0, err
	}
	hop.Flags = bpf.HopResolved | bpf.HopXDP | bpf.HopTC
	element := bpf.Nexthop{Hop: hop, Generation: state.Generation}
	err := p.Map("nexthops").Put(index, &element)
	return uint64(state.Generation)<<32 | uint64(index), err
}

// flowMemory returns the memory of a flow of a family in a table that is half full, in bytes.
// element is the memory of each map for one element.
func flowMemory(element map[string]float64, family string) float64 {
	return element["flows"+family] / float64(bpf.FlowsOfSets(1))
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// tableNames are what table.c calls the tables, and what the results call them. The first is waggle's.
var tableNames = []struct{ program, peer string }{{"own", ""}, {"hash", "kernel HASH"}, {"lru", "kernel LRU_HASH"}}

// tableFamily is what is put into the tables of one address family.
type tableFamily struct {
	name, suffix         string
	there, absent, fresh flows
}

// tableRig is the tables of one family with so many flows in them.
type tableRig struct {
	runner
	tableFamily
	size uint32
}

func measureTable(o options) (results []Result, err error) {
	sizes, insertBeside := []uint32{1 << 10, 1 << 16, 1 << 18, 1 << 20}, uint32(1<<16)
	if o.quick {
		sizes, insertBeside = []uint32{1 << 10}, 1<<10
	}
	for _, f := range tableFamilies() {
		for _, size := range sizes {
			got, err := measureTables(o, f, size, size == insertBeside)
			if err != nil {
				return nil, fmt.Errorf("%s, %s flows: %w", f.name, short(size), err)
			}
			results = append(results, got...)
		}
	}
	return results, nil
}

func tableFamilies() []tableFamily {
	family := func(name, suffix, client, frontend string) tableFamily {
		first, to := netip.MustParseAddr(client), end{AddrPort: netip.AddrPortFrom(netip.MustParseAddr(frontend), establishedPort)}
		from := func(by uint32) flows {
			return flows{proto: unix.IPPROTO_TCP, src: end{netip.AddrPortFrom(further(first, by), 1024), true, true}, dst: to}
		}
		return tableFamily{name, suffix, from(0), from(1 << 16), from(1 << 18)}
	}
	return []tableFamily{family("IPv4", "4", "10.100.0.0", "172.18.0.2"), family("IPv6", "6", "fd00:c::a64:0", "fd00:18::2")}
}

// measureTables makes the tables, with room for twice as many records as there are, and measures
// lookups, then insertions if wanted.
func measureTables(o options, f tableFamily, size uint32, insert bool) ([]Result, error) {
	r := &tableRig{runner: newRunner(o), tableFamily: f, size: size}
	r.from, r.to = []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}
	var err error
	if r.Collection, err = probe.LoadTable(f.suffix, 2*size); err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.fill(); err != nil {
		return nil, err
	}
	results, err := r.lookups(o.runs)
	if err != nil || !insert {
		return results, err
	}
	inserted, err := r.insertions(o.runs)
	return append(results, inserted), err
}

// fill has the programs put the flows into each table, in another order than that in which they are
// looked up: else the records would be found one behind the other.
func (r *tableRig) fill() error {
	frame, err := r.there.frame(r.from, r.to)
	if err != nil {
		return err
	}
	d := r.there.drive(frame, r.size)
	d.Stride = 1
	for _, t := range tableNames {
		program := r.Programs[t.program+"_fill"+r.suffix]
		if _, _, err := r.run(bpf.HookXDP, program, d, r.size); err != nil {
			return fmt.Errorf("fill %s: %w", t.program, err)
		}
	}
	return nil
}

// lookups measures all tables at once: what they have, and what they don't.
func (r *tableRig) lookups(runs int) (results []Result, err error) {
	idle := r.idle()
	subjects := []*subject{idle}
	kinds := []struct {
		program, name string
		flows         flows
	}{{"_hit", "lookup that finds", r.there}, {"_miss", "lookup that finds nothing", r.absent}}
	for _, kind := range kinds {
		for _, t := range tableNames {
			subjects = append(subjects, r.subject(t.program+kind.program, bpf.HookXDP, r.Programs[t.program+kind.program+r.suffix], kind.flows, r.size))
		}
	}
	if err := takeTurns(runs, subjects); err != nil {
		return nil, err
	}
	for i, kind := range kinds {
		tables := subjects[1+i*len(tableNames):][:len(tableNames)]
		metric := fmt.Sprintf("table alone, %s, %s, %s", kind.name, r.name, flowCount(r.size, false))
		peers := map[string]float64{}
		for j, t := range tableNames[1:] {
			peers[t.peer] = tables[1+j].beyond(idle)
		}
		results = append(results, Result{Metric: metric, Unit: "ns", Waggle: tables[0].beyond(idle), Runs: tables[0].less(idle), Peers: peers})
	}
	return results, nil
}

// insertions measures both records of flows that were never there. A table that is full evicts.
func (r *tableRig) insertions(runs int) (Result, error) {
	idle := r.idle()
	own := r.freshSubject("own_insert", r.Programs["own_insert"+r.suffix], r.tableFamily.fresh, 0)
	lru := r.freshSubject("lru_insert", r.Programs["lru_insert"+r.suffix], r.tableFamily.fresh, 0)
	if err := takeTurns(runs, []*subject{idle, own, lru}); err != nil {
		return Result{}, err
	}
	metric := fmt.Sprintf("table alone, two insertions, %s, %s", r.name, flowCount(r.size, true))
	return Result{Metric: metric, Unit: "ns", Waggle: own.beyond(idle), Runs: own.less(idle),
		Peers: map[string]float64{"kernel LRU_HASH": lru.beyond(idle)}}, nil
}

// idle is all but the table: the tuple and its key.
func (r *tableRig) idle() *subject {
	return r.subject("key", bpf.HookXDP, r.Programs["key"+r.suffix], r.there, r.size)
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// tableNames are the names of the tables in table.c, in the results, and of the programs that only
// read a key. The first is waggle's.
var tableNames = []struct{ program, peer, key string }{
	{"own", "", "own_key"}, {"hash", "kernel HASH", "hash_key"}, {"lru", "kernel LRU_HASH", "hash_key"},
}

// tableFamily is the content of the tables of one address family.
type tableFamily struct {
	name, suffix         string
	there, absent, fresh flows
}

// tableRig is the tables of one family with so many flows in them.
type tableRig struct {
	options
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

// measureTables measures lookups in tables that are half full and, if wanted, insertions.
func measureTables(o options, f tableFamily, size uint32, insert bool) ([]Result, error) {
	results, err := measureWith(o, f, size, 2*size, 2*size, (*tableRig).lookups)
	if err != nil || !insert {
		return results, err
	}
	r := newRunner(o)
	half := 2 * (size + 2*r.freshFlows())
	ended, err := measureWith(o, f, size, half, half, (*tableRig).endedInsertions)
	if err != nil {
		return nil, err
	}
	// An LRU_HASH evicts entries; waggle's table keeps them, and has as much room beside.
	full, err := measureWith(o, f, size, 4*size, 2*size, (*tableRig).fullInsertions)
	return slices.Concat(results, ended, full), err
}

// measureWith makes tables with room for so many records, and measures with them.
func measureWith(o options, f tableFamily, size, own, kernel uint32, measure func(*tableRig) ([]Result, error)) ([]Result, error) {
	r, err := newTableRig(o, f, size, own, kernel)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return measure(r)
}

func newTableRig(o options, f tableFamily, size, own, kernel uint32) (*tableRig, error) {
	r := &tableRig{options: o, runner: newRunner(o), tableFamily: f, size: size}
	r.from, r.to = []byte{2, 0, 0, 0, 0, 1}, []byte{2, 0, 0, 0, 0, 2}
	var err error
	if r.Collection, err = probe.LoadTable(f.suffix, own, kernel); err != nil {
		return nil, err
	}
	err = placeAll(r.Maps, func() error { return r.fillTable(tableNames[0].program, f.there, size) })
	for _, t := range tableNames[1:] {
		err = errors.Join(err, r.fillTable(t.program, f.there, size))
	}
	if err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// fillTable makes a program put records of flows into its table, in another order than that of the
// lookups: otherwise these would find the records one behind the other.
func (r *runner) fillTable(table string, f flows, count uint32) error {
	frame, err := f.frame(r.from, r.to)
	if err != nil {
		return err
	}
	d := f.drive(frame, count)
	d.Stride = 1
	if _, _, err := r.run(bpf.HookXDP, r.Programs[table+"_fill"+f.family()], d, count); err != nil {
		return fmt.Errorf("fill %s: %w", table, err)
	}
	return nil
}

// lookups measures all tables at once: keys that they have, and keys that they don't.
func (r *tableRig) lookups() (results []Result, err error) {
	idle, subjects := r.idle()
	kinds := []struct {
		program, name string
		flows         flows
	}{{"_hit", "lookup that finds", r.there}, {"_miss", "lookup that finds nothing", r.absent}}
	first := len(subjects)
	for _, kind := range kinds {
		for _, t := range tableNames {
			subjects = append(subjects, r.subject(t.program+kind.program, bpf.HookXDP, r.Programs[t.program+kind.program+r.suffix], kind.flows, r.size))
		}
	}
	if err := takeTurns(r.runs, subjects); err != nil {
		return nil, err
	}
	for i, kind := range kinds {
		tables := subjects[first+i*len(tableNames):][:len(tableNames)]
		metric := fmt.Sprintf("table alone, %s, %s, %s", kind.name, r.name, flowCount(r.size, false))
		peers := map[string]float64{}
		for j, t := range tableNames[1:] {
			peers[t.peer] = tables[1+j].beyond(idle[t.key])
		}
		own := tables[0]
		results = append(results, Result{Metric: metric, Unit: "ns", Waggle: own.beyond(idle["own_key"]), Runs: own.less(idle["own_key"]), Peers: peers})
	}
	return results, nil
}

// endedInsertions measures both records of new flows, which end before the next run.
func (r *tableRig) endedInsertions() ([]Result, error) { return r.insertions(false) }

// fullInsertions measures the same, but no flow ends: the table is full, and each record replaces
// another.
func (r *tableRig) fullInsertions() ([]Result, error) { return r.insertions(true) }

func (r *tableRig) insertions(full bool) ([]Result, error) {
	idle, subjects := r.idle()
	name, tables := "two insertions", map[string]*subject{}
	for _, table := range []string{"own", "lru"} {
		var end *ebpf.Program
		if !full {
			end = r.Programs[table+"_remove"+r.suffix]
		}
		tables[table] = r.freshSubject(table+"_insert", r.Programs[table+"_insert"+r.suffix], end, r.tableFamily.fresh, 0)
		subjects = append(subjects, tables[table])
	}
	if full {
		name += ", full table"
	}
	if err := takeTurns(r.runs, subjects); err != nil {
		return nil, err
	}
	own := tables["own"]
	metric := fmt.Sprintf("table alone, %s, %s, %s", name, r.name, flowCount(r.size, true))
	return []Result{{Metric: metric, Unit: "ns", Waggle: own.beyond(idle["own_key"]), Runs: own.less(idle["own_key"]),
		Peers: map[string]float64{"kernel LRU_HASH": tables["lru"].beyond(idle["hash_key"])}}}, nil
}

// idle are the programs that only read a key: everything but the tables.
func (r *tableRig) idle() (idle map[string]*subject, all []*subject) {
	idle = map[string]*subject{}
	for _, name := range []string{"own_key", "hash_key"} {
		idle[name] = r.subject(name, bpf.HookXDP, r.Programs[name+r.suffix], r.there, r.size)
		all = append(all, idle[name])
	}
	return idle, all
}

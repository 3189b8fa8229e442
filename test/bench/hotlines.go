// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// hotPlan is what is measured of one family at once: the lines of the table, and all subjects that
// take turns for them.
type hotPlan struct {
	*hotRig
	family   hotFamily
	subjects []*subject
	shared   map[string]*subject // several lines are compared with these
	lines    []hotLine
	alone    *runner // of programs over a table that holds the same flows
}

// hotLine is one case with one number of flows, with what it is compared with.
type hotLine struct {
	name    string // of the case
	of      string // family and number of flows
	waggle  *subject
	idle    *subject // the harness, for waggle's hook
	limit   *subject
	idleXDP *subject // the harness, for the limit's hook
	records *subject // the writes of a new flow
	rewrite *subject
	parse   *subject
	beyond  bool // measured beyond the limit too
}

func (r *hotRig) measureFamily(f hotFamily, step hotStep) ([]Result, error) {
	plan := &hotPlan{hotRig: r, family: f, shared: map[string]*subject{}}
	if err := r.setTarget(f.express[0]); err != nil {
		return nil, err
	}
	if step.fresh > 0 {
		var err error
		if plan.alone, err = r.newTableAlone(f, step); err != nil {
			return nil, err
		}
		defer plan.alone.Close()
	}
	for _, size := range step.sizes {
		for _, c := range f.cases {
			if step.has(c) {
				plan.add(c, size)
			}
		}
	}
	if err := takeTurns(r.runs, plan.subjects); err != nil {
		return nil, err
	}
	var results []Result
	for _, l := range plan.lines {
		results = append(results, l.results()...)
	}
	return results, nil
}

// add makes a line of one case.
func (p *hotPlan) add(c hotCase, size uint32) {
	l := hotLine{name: c.name, of: p.family.name + ", " + flowCount(size, c.every), idle: p.idle(c.hook), idleXDP: p.idle(bpf.HookXDP)}
	l.waggle = p.waggleSubject(l.metric(""), c, size)
	p.subjects = append(p.subjects, l.waggle)
	if c.limit != "" { // a bare XDP program for either hook
		l.limit = p.once(fmt.Sprint(c.limit, c.flows.src, size), func(name string) *subject {
			return p.limitSubject(name, p.Programs[c.limit+p.family.table], c, size)
		})
	}
	if c.every && c.hook == bpf.HookXDP {
		l.records = p.once("two records", func(name string) *subject {
			return p.recordsSubject(name, c)
		})
	}
	if c.verdict == bpf.VerdictExpress && !c.every {
		l.rewrite = p.bare("rewrite", p.family.table, c.hook, p.family.cases[0], 1)
	}
	if c.parse {
		l.parse = p.bare("parse", "", c.hook, c, size)
	}
	l.beyond = c.beyond && size == 1
	p.lines = append(p.lines, l)
}

// newTableAlone makes a flow table like the datapath's. The writes of a new flow are measured in
// it, with nothing around them.
func (r *hotRig) newTableAlone(f hotFamily, step hotStep) (*runner, error) {
	tables, err := probe.LoadTable(f.table, r.maps.Map("flows"+f.table).MaxEntries()*bpf.Ways, 16)
	if err != nil {
		return nil, err
	}
	alone := newRunner(r.options)
	alone.Collection, alone.from, alone.to = tables, r.from, r.to
	err = placeAll(tables.Maps, func() error {
		for _, record := range f.established(step.kind) {
			if err := alone.fillTable("own", record, last(step.sizes)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		tables.Close()
		return nil, err
	}
	return &alone, nil
}

// recordsSubject makes both records of new flows, and nothing else.
func (p *hotPlan) recordsSubject(name string, c hotCase) *subject {
	var end *ebpf.Program
	if !c.full {
		end = p.alone.Programs["own_remove"+p.family.table]
	}
	return p.alone.freshSubject(name, p.alone.Programs["own_insert"+p.family.table], end, c.flows, c.services)
}

// once makes a subject if there is none with that name yet.
func (p *hotPlan) once(name string, make func(name string) *subject) *subject {
	if p.shared[name] == nil {
		p.shared[name] = make(name)
		p.subjects = append(p.subjects, p.shared[name])
	}
	return p.shared[name]
}

// bare is a program that exists for XDP and for tc.
func (p *hotPlan) bare(what, family string, hook bpf.Hook, c hotCase, size uint32) *subject {
	driver := driverOf(hook)
	return p.once(fmt.Sprint(what, driver, size), func(name string) *subject {
		return p.subject(name, hook, p.Programs[what+"_"+driver+family], c.flows, size)
	})
}

// idle is the harness with a program that does nothing.
func (p *hotPlan) idle(hook bpf.Hook) *subject {
	return p.bare("nothing", "", hook, p.family.cases[0], 1)
}

// metric returns the name of the line, or of a value derived from it.
func (l hotLine) metric(derived string) string { return l.name + derived + ", " + l.of }

// results are the line itself, and waggle's time beyond the part that was measured alone.
func (l hotLine) results() []Result {
	results := []Result{l.result()}
	if l.parse != nil {
		results = append(results, l.beyondParse())
	}
	if l.beyond {
		results = append(results, l.beyondLimit())
	}
	return results
}

func (l hotLine) result() Result {
	r := Result{Metric: l.metric(""), Unit: "ns", Waggle: l.waggle.beyond(l.idle), Runs: l.waggle.less(l.idle), Peers: map[string]float64{}}
	if l.limit != nil {
		r.Limit = l.limit.beyond(l.idleXDP)
	}
	if l.records != nil {
		r.Peers["records alone"] = l.records.beyond(l.idleXDP)
	}
	if l.rewrite != nil {
		r.Peers["rewrite, no lookup"] = l.rewrite.beyond(l.idle)
	}
	if l.parse != nil {
		r.Peers[parseAlone] = l.parse.beyond(l.idle)
	}
	return r
}

// beyondParse is waggle's time for a packet whose tuple is known. Its limit is one lookup.
func (l hotLine) beyondParse() Result {
	return Result{Metric: l.metric(" beyond parse"), Unit: "ns", Waggle: l.waggle.beyond(l.parse), Runs: l.waggle.less(l.parse),
		Limit: l.limit.beyond(l.idleXDP)}
}

// beyondLimit is waggle's time beyond one lookup.
func (l hotLine) beyondLimit() Result {
	return Result{Metric: l.metric(" beyond bare lookup"), Unit: "ns", Waggle: l.waggle.beyond(l.limit), Runs: l.waggle.less(l.limit),
		Peers: map[string]float64{"bare lookup": l.limit.beyond(l.idleXDP), "rewrite, no lookup": l.rewrite.beyond(l.idle)}}
}

func flowCount(n uint32, every bool) string {
	switch {
	case every:
		return fmt.Sprintf("beside %s flows", short(n))
	case n == 1:
		return "1 flow"
	default:
		return short(n) + " flows"
	}
}

func short(n uint32) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%dM", n>>20)
	case n >= 1<<10:
		return fmt.Sprintf("%dk", n>>10)
	default:
		return fmt.Sprint(n)
	}
}

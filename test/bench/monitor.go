// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
	"github.com/waggle-lb/waggle/test/topo"
)

// watchState is what a monitor asks for while packets are measured, by which programs.
type watchState struct {
	name    string
	twin    bool // by those of loadTwin, or loadBeside
	watched []bpf.Verdict
	flags   uint32
}

// watchStates are the states without a monitor, with `waggle monitor`, and with `waggle monitor --packets`.
var watchStates = []watchState{
	{name: ""},
	{name: "without counters", twin: true},
	{name: "events", watched: []bpf.Verdict{bpf.VerdictFlowOpened, bpf.VerdictFlowConfirmed, bpf.VerdictFlowClosed, bpf.VerdictRefused}},
	{name: "packets", flags: bpf.WatchPackets, watched: []bpf.Verdict{
		bpf.VerdictFlowOpened, bpf.VerdictFlowConfirmed, bpf.VerdictFlowClosed, bpf.VerdictRefused,
		bpf.VerdictLeftToTC, bpf.VerdictExpress, bpf.VerdictStack, bpf.VerdictSource,
	}},
}

// watchRing holds all that a run reports: no process reads it.
const watchRing = 256 << 20

// measureMonitor measures packets without a monitor, with one, and without a monitor and without
// counters by service and backend.
func measureMonitor(o options) ([]Result, error) {
	return measureSteps(o, stateSteps(o), watchStates, func(r *hotRig) error { return r.loadTwin("counting", false) })
}

// measureSteps measures steps in each state, in a network of their own.
func measureSteps(o options, steps []hotStep, states []watchState, prepare func(*hotRig) error) (results []Result, err error) {
	network, err := topo.New(topo.ForXDP())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	for _, step := range steps {
		got, err := measureStates(o, network, step, states, prepare)
		if err != nil {
			return nil, err
		}
		results = append(results, got...)
	}
	return results, nil
}

// stateSteps are what is measured in several states.
func stateSteps(o options) []hotStep {
	size := uint32(1 << 16)
	if o.quick {
		size = 1 << 10
	}
	r := newRunner(o)
	fresh := r.freshFlows()
	bare := probe.Room{Hash: 4 * size, LRU: 2 * size}
	return []hotStep{
		{kind: kindExpress, sizes: []uint32{1, size}, bare: bare}, {kind: kindLocal, sizes: []uint32{size}, bare: bare},
		{kind: kindFresh, sizes: []uint32{size}, fresh: fresh, bare: bare},
	}
}

// measureStates measures the cases of a step in each state. prepare is called before.
func measureStates(o options, network *topo.Network, step hotStep, states []watchState, prepare func(*hotRig) error) (results []Result, err error) {
	rig, err := newHotRig(o, network, step.room(), step.bare, nil)
	if err != nil {
		return nil, err
	}
	defer rig.close()
	err = rig.node.Do(func() error {
		if err := errors.Join(prepare(rig), rig.publish(), rig.establish(step)); err != nil {
			return err
		}
		for _, f := range rig.families() {
			got, err := rig.measureStates(f, step, states)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			results = append(results, got...)
		}
		return nil
	})
	return results, err
}

// stateLine is one case in each state.
type stateLine struct {
	name     string
	idle     *subject
	states   []watchState
	subjects []*subject // by state
}

// measureStates has the states of one case take turns.
func (r *hotRig) measureStates(f hotFamily, step hotStep, states []watchState) (results []Result, err error) {
	plan := &hotPlan{hotRig: r, family: f, shared: map[string]*subject{}}
	var lines []stateLine
	for _, size := range step.sizes {
		for _, c := range f.cases {
			if step.has(c) && !c.full {
				lines = append(lines, plan.stateLine(c, size, states))
			}
		}
	}
	if err := takeTurns(r.runs, append(plan.subjects, byState(lines)...)); err != nil {
		return nil, err
	}
	for _, l := range lines {
		results = append(results, l.result())
	}
	return results, nil
}

func (p *hotPlan) stateLine(c hotCase, size uint32, states []watchState) stateLine {
	l := stateLine{states: states, name: fmt.Sprintf("%s, %s, %s", c.name, p.family.name, flowCount(size, c.every)), idle: p.idle(c.hook)}
	for _, state := range states {
		programs := p.programs
		if state.twin {
			programs = p.twin
		}
		s := p.programSubject(l.name+" "+state.name, programs[hotPrograms[c.hook]], c, size)
		l.subjects = append(l.subjects, p.watchedSubject(s, state))
	}
	return l
}

// byState orders the subjects of cases so that all of one state follow each other. A subject that followed the same
// case in another state would find its records in the processor's caches. The first of a state would follow the last
// of another one, so the last case is run before it, and that is discarded.
func byState(lines []stateLine) (ordered []*subject) {
	last := lines[len(lines)-1]
	for i, s := range last.subjects {
		ordered = append(ordered, &subject{name: s.name, measure: s.measure})
		for _, l := range lines {
			ordered = append(ordered, l.subjects[i])
		}
	}
	return ordered
}

func (l stateLine) result() Result {
	off := l.subjects[0]
	r := Result{Metric: l.name, Unit: "ns", Waggle: off.beyond(l.idle), Runs: off.less(l.idle), Peers: map[string]float64{}}
	for i, state := range l.states[1:] {
		r.Peers[state.name] = l.subjects[i+1].beyond(l.idle)
	}
	return r
}

// watchedSubject measures a subject in a state, and makes sure that all that it reports has had room.
func (r *hotRig) watchedSubject(s *subject, state watchState) *subject {
	return &subject{name: s.name, measure: func() (float64, error) {
		end, err := r.watch(state)
		if err != nil {
			return 0, err
		}
		ns, err := s.measure()
		return ns, errors.Join(err, end())
	}}
}

// watch takes the first slot, as loader.Watcher would. It does the same for a state in which nothing is watched: to
// make the ring empties the processor's caches.
func (r *hotRig) watch(state watchState) (end func() error, err error) {
	ring, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.RingBuf, MaxEntries: watchRing})
	if err != nil {
		return nil, err
	}
	defer ring.Close()
	w := bpf.Watch{Until: math.MaxInt64, Flags: state.flags}
	for _, v := range state.watched {
		w.Verdicts |= 1 << v
	}
	word := w.Verdicts
	if state.flags&bpf.WatchPackets != 0 {
		word |= bpf.WatchingBytes
	}
	zero := uint32(0)
	err = errors.Join(r.maps.Map("watch_meters").Put(zero, bpf.WatchMeter{}), r.maps.Map("watchers").Put(zero, ring),
		r.maps.Map("watch_slots").Put(zero, w), r.maps.Map("watching").Put(zero, word))
	return func() error {
		var m bpf.WatchMeter
		err := errors.Join(r.maps.Map("watching").Put(zero, uint64(0)), r.maps.Map("watch_slots").Put(zero, bpf.Watch{}),
			r.maps.Map("watchers").Delete(zero), r.maps.Map("watch_meters").Lookup(zero, &m))
		if err == nil && slices.Max(m.Full[:]) > 0 {
			err = fmt.Errorf("the ring was full: %v", m.Full)
		}
		return err
	}, err
}

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

// watchState is what a monitor asks for while packets are measured.
type watchState struct {
	name    string
	watched []bpf.Verdict
	flags   uint32
}

// watchStates are the states without a monitor, with `waggle monitor`, and with `waggle monitor --packets`.
var watchStates = []watchState{
	{name: ""},
	{name: "events", watched: []bpf.Verdict{bpf.VerdictFlowOpened, bpf.VerdictFlowConfirmed, bpf.VerdictFlowClosed, bpf.VerdictRefused}},
	{name: "packets", flags: bpf.WatchPackets, watched: []bpf.Verdict{
		bpf.VerdictFlowOpened, bpf.VerdictFlowConfirmed, bpf.VerdictFlowClosed, bpf.VerdictRefused,
		bpf.VerdictLeftToTC, bpf.VerdictExpress, bpf.VerdictStack, bpf.VerdictSource,
	}},
}

// watchRing holds all that a run reports: no process reads it.
const watchRing = 256 << 20

// measureMonitor measures packets without a monitor, and with one.
func measureMonitor(o options) (results []Result, err error) {
	network, err := topo.New(topo.ForXDP())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	size := uint32(1 << 16)
	if o.quick {
		size = 1 << 10
	}
	r := newRunner(o)
	bare := probe.Room{Hash: 4 * size, LRU: 2 * size}
	for _, step := range []hotStep{
		{kind: kindExpress, sizes: []uint32{1, size}, bare: bare}, {kind: kindLocal, sizes: []uint32{size}, bare: bare},
		{kind: kindFresh, sizes: []uint32{size}, fresh: r.freshFlows(), bare: bare},
	} {
		got, err := measureWatched(o, network, step)
		if err != nil {
			return nil, err
		}
		results = append(results, got...)
	}
	return results, nil
}

func measureWatched(o options, network *topo.Network, step hotStep) (results []Result, err error) {
	rig, err := newHotRig(o, network, step.room(), step.bare, nil)
	if err != nil {
		return nil, err
	}
	defer rig.close()
	err = rig.node.Do(func() error {
		if err := errors.Join(rig.publish(), rig.establish(step)); err != nil {
			return err
		}
		results, err = rig.measureStates(rig.families()[0], step)
		return err
	})
	return results, err
}

// measureStates has the states of one case take turns.
func (r *hotRig) measureStates(f hotFamily, step hotStep) (results []Result, err error) {
	plan := &hotPlan{hotRig: r, family: f, shared: map[string]*subject{}}
	type line struct {
		name string
		idle *subject
		by   []*subject
	}
	var lines []line
	for _, size := range step.sizes {
		for _, c := range f.cases {
			if !step.has(c) || c.full {
				continue
			}
			l := line{name: fmt.Sprintf("%s, %s", c.name, flowCount(size, c.every)), idle: plan.idle(c.hook)}
			for _, state := range watchStates {
				l.by = append(l.by, r.watchedSubject(r.waggleSubject(l.name+" "+state.name, c, size), state))
			}
			plan.subjects = append(plan.subjects, l.by...)
			lines = append(lines, l)
		}
	}
	if err := takeTurns(r.runs, plan.subjects); err != nil {
		return nil, err
	}
	for _, l := range lines {
		off := Result{Metric: l.name, Unit: "ns", Waggle: l.by[0].beyond(l.idle), Runs: l.by[0].less(l.idle), Peers: map[string]float64{}}
		for i, state := range watchStates[1:] {
			off.Peers[state.name] = l.by[i+1].beyond(l.idle)
		}
		results = append(results, off)
	}
	return results, nil
}

// watchedSubject measures a subject in a state, and makes sure that all that it reports has had room.
func (r *hotRig) watchedSubject(s *subject, state watchState) *subject {
	return &subject{name: s.name, measure: func() (float64, error) {
		if len(state.watched) == 0 {
			return s.measure()
		}
		end, err := r.watch(state)
		if err != nil {
			return 0, err
		}
		ns, err := s.measure()
		return ns, errors.Join(err, end())
	}}
}

// watch takes the first slot, as loader.Watcher would.
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

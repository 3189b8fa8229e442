// SPDX-License-Identifier: Apache-2.0

// Package upgrade takes over what the previous release has left on a node, under traffic.
package upgrade

import (
	"errors"
	"fmt"
	"hash/maphash"
	"time"

	"github.com/cilium/ebpf"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
)

// Flows converts flows. The programs of the previous release use their own tables until ours replace them,
// so the conversion is repeated: each pass converts what has changed since.
type Flows struct {
	dp   *loader.Datapath
	old  map[string]*ebpf.Map
	log  *logrus.Entry
	seed maphash.Seed
	done map[uint64]uint64 // by record: its state at its last conversion

	records int // converted
	lost    int // not converted: no room, or the tuple is another flow's by now
}

// NewFlows returns nil if there are no flows to convert.
func NewFlows(dp *loader.Datapath, log *logrus.Entry) *Flows {
	old := dp.OldFlows()
	if len(old) == 0 {
		return nil
	}
	return &Flows{dp: dp, old: old, log: log, seed: maphash.MakeSeed(), done: map[uint64]uint64{}}
}

// Convert converts the flows, and exchanges the programs of the devices with these roles, by ifindex.
// pod are the devices that pods are behind, bridges of pods included. What our programs have to know of
// these devices must be in the maps already. After an error some devices still have the old programs,
// and Convert may be called again.
func (f *Flows) Convert(roles map[int]loader.Role, pod map[int]bool) error {
	z := newZones(pod)
	err := f.pass(z) // most of it before anything changes
	if err == nil {
		err = f.dp.Swap(roles, func() error { return f.passQuickly(z) })
	}
	return errors.Join(err, f.pass(z))
}

// The last pass may miss a flow that opens while it runs. So the programs are exchanged after a pass
// that nothing interrupted. On a machine that is too busy for that, the agent tries for at most
// quickFor: it does nothing else for its devices meanwhile.
const (
	quickPass = 5 * time.Millisecond
	quickFor  = 2 * time.Second
)

func (f *Flows) passQuickly(z *zones) error {
	for began := time.Now(); ; {
		started := time.Now()
		if err := f.pass(z); err != nil || time.Since(started) < quickPass || time.Since(began) > quickFor {
			return err
		}
	}
}

// Finish converts what the last packets through the old programs have changed, and drops the old tables.
func (f *Flows) Finish(pod map[int]bool) error {
	if err := f.pass(newZones(pod)); err != nil {
		return err
	}
	if err := f.dp.DropOldFlows(); err != nil {
		return err
	}
	log := f.log.WithFields(logrus.Fields{"records": f.records, "lost": f.lost})
	if f.lost > 0 {
		log.Warn("flows of the previous release: some are lost, since there is no room for them, or other flows have taken their tuples")
		return nil
	}
	log.Info("flows of the previous release go on")
	return nil
}

// pass converts the records that are new or have changed since the last pass.
func (f *Flows) pass(z *zones) error {
	for _, t := range tables {
		if m := f.old[t.name]; m != nil {
			if err := t.read(m, func(r record) error { return f.convert(r, z) }); err != nil {
				return fmt.Errorf("converting flows of the previous release: %w", err)
			}
		}
	}
	return nil
}

func (f *Flows) convert(r record, z *zones) error {
	key := maphash.Comparable(f.seed, r.identity())
	state := uint64(r.lastSeen)<<32 | uint64(r.state)
	before, known := f.done[key]
	if known && before == state {
		return nil
	}
	f.done[key] = state
	for _, c := range convert(r, func(a bpf.Addr) bpf.Zone { return z.of(r.family, a) }) {
		added, err := f.dp.Convert(c)
		switch {
		case err == nil && added:
			f.records++
		case err == nil:
		case errors.Is(err, loader.ErrOtherFlow), errors.Is(err, loader.ErrTableFull):
			if !known {
				f.lost++
			}
		default:
			return err
		}
	}
	return nil
}

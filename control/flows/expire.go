// SPDX-License-Identifier: Apache-2.0

// Package flows maintains the table of flows: it releases expired flows, removes flows to endpoints that
// are gone, and reports what runs out.
package flows

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// A walk takes time in proportion to the table, and nothing else runs on its CPU meanwhile. No new flow
// needs the walk, since it takes the places of expired records itself. Only the end of connections that
// the kernel translates is noticed by it.
const (
	// expireEvery is the shortest pause between walks.
	expireEvery = 5 * time.Second
	// expireRest sets the pause after a short walk: this many times the walk's duration.
	expireRest    = 1000
	expireRestMax = time.Minute
	// expireDuty bounds the cost of walks that are waited for, or long: 1/expireDuty of a CPU.
	expireDuty = 100
)

// pauseAfter returns the pause after a walk that took so long.
func pauseAfter(took time.Duration, waited bool) time.Duration {
	pause := max(expireEvery, expireDuty*took)
	if waited {
		return pause
	}
	return max(pause, min(expireRest*took, expireRestMax))
}

// Expirer has the kernel release expired flows. The datapath does not depend on it: it ignores expired
// records, and takes their places where it finds no others.
type Expirer struct {
	dp      *loader.Datapath
	log     *logrus.Entry
	foreign func(records uint32) // called after each walk

	pass  uint32 // of the last walk that was complete
	empty bool   // it found no record
	made  made   // when it began

	mu     sync.Mutex
	census status.FlowCensus
}

// NewExpirer makes an Expirer; Run walks. After each walk it calls foreign with the number of records of
// connections that the kernel translates.
func NewExpirer(dp *loader.Datapath, foreign func(records uint32), log *logrus.Entry) *Expirer {
	return &Expirer{dp: dp, log: log, foreign: foreign}
}

// Census returns what the last walks found. It may be called at any time, from any goroutine.
func (e *Expirer) Census() status.FlowCensus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.census
}

// Run walks until ctx is done.
func (e *Expirer) Run(ctx context.Context) {
	wait := expireEvery
	pass, err := maps.LastPass(e.dp)
	if err != nil {
		e.log.WithError(err).Error("counting active flows")
	}
	e.pass = pass
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		started := time.Now()
		foreign := e.walk()
		wait = pauseAfter(time.Since(started), foreign > 0)
	}
}

// made counts what has made records: it does not change while none is made.
type made struct{ opened, own uint64 }

// countMade counts. A flow is counted after its records have been made.
func countMade(dp *loader.Datapath) (m made, err error) {
	counters, err := maps.ReadCounters(dp)
	for _, c := range counters {
		if c.Verdict == bpf.VerdictFlowOpened {
			m.opened += c.Packets
		}
	}
	m.own = dp.RecordsMade()
	return m, err
}

// walk returns the number of records of connections that the kernel translates. It omits the walk if the tables
// were empty at the last one, and no flow has opened since that one began.
func (e *Expirer) walk() (foreign uint32) {
	if err := e.dp.SweepWatchers(); err != nil {
		e.log.WithError(err).Warn("removing what killed monitors have left")
	}
	made, err := countMade(e.dp)
	if err != nil {
		e.log.WithError(err).Error("counting opened flows")
	}
	if e.empty && err == nil && made == e.made {
		e.foreign(0)
		return 0
	}
	e.empty, e.made = false, made
	pass := max(e.pass+1, 1) // 0 is none
	v4, err := e.dp.CountActive(false, pass)
	if err != nil {
		e.log.WithError(err).Error("expiring IPv4 flows")
		return 0
	}
	v6, err := e.dp.CountActive(true, pass)
	if err != nil {
		e.log.WithError(err).Error("expiring IPv6 flows")
		return 0
	}
	if err := maps.CompletePass(e.dp, pass); err != nil {
		e.log.WithError(err).Error("counting active flows")
	}
	e.pass = pass
	foreign = v4.Foreign + v6.Foreign
	e.foreign(foreign)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.census.IPv4 = status.FamilyCensus{Confirmed: v4.Confirmed, Unconfirmed: v4.Unconfirmed}
	e.census.IPv6 = status.FamilyCensus{Confirmed: v6.Confirmed, Unconfirmed: v6.Unconfirmed}
	e.census.Expired += uint64(v4.Dead) + uint64(v6.Dead)
	e.empty = isEmpty(v4) && isEmpty(v6)
	return foreign
}

// isEmpty reports whether a walk has found no record, not even a dead one.
func isEmpty(c bpf.Census) bool { return c.Confirmed == 0 && c.Unconfirmed == 0 && c.Dead == 0 }

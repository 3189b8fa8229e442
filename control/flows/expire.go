// SPDX-License-Identifier: Apache-2.0

// Package flows has the table of flows looked after: what is dead is released, what leads to endpoints
// that are gone is removed, and what runs out is told.
package flows

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// A walk takes time in proportion to the table, in which nothing else runs on its CPU. Nobody waits for
// what it clears away but the kernel's own connections, whose end is noticed by it.
const (
	// expireEvery is how often dead flows are looked for at most,
	expireEvery = 5 * time.Second
	// expireRest how seldom, as long as a walk is short: so many times what it took.
	expireRest    = 1000
	expireRestMax = time.Minute
	// expireDuty bounds what walks cost while they are waited for, or long: one part in so many of a CPU.
	expireDuty = 100
)

// pauseAfter is how long to wait after a walk that took so long.
func pauseAfter(took time.Duration, waited bool) time.Duration {
	pause := max(expireEvery, expireDuty*took)
	if waited {
		return pause
	}
	return max(pause, min(expireRest*took, expireRestMax))
}

// Expirer has dead flows released. The datapath does not depend on it: it ignores dead records,
// and takes their places where it finds no others.
type Expirer struct {
	dp      *loader.Datapath
	log     *logrus.Entry
	foreign func(records uint32) // told after each walk

	pass uint32 // of the last walk that was complete

	mu     sync.Mutex
	census status.FlowCensus
}

// NewExpirer prepares walks. After each, foreign is called with the number of records of connections that
// the kernel translates.
func NewExpirer(dp *loader.Datapath, foreign func(records uint32), log *logrus.Entry) *Expirer {
	return &Expirer{dp: dp, log: log, foreign: foreign}
}

// Census returns what the last walks found. It may be called at any time.
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

// walk returns how many records there are of connections that the kernel translates.
func (e *Expirer) walk() (foreign uint32) {
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
	return foreign
}

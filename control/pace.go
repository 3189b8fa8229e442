// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"time"

	"golang.org/x/sys/unix"
)

// Pace is how often the proxy works.
type Pace struct {
	// MinSync is the least time between two syncs. Even after a long rest, a sync waits up to
	// 20 ms of it for further changes: those of a rollout come together.
	MinSync time.Duration
	// Repair is how often the maps, and what is attached, are compared with what they should be; it
	// bounds how long another program's change lasts.
	Repair time.Duration
}

// DefaultPace is the pace of agents without another one.
var DefaultPace = Pace{MinSync: 20 * time.Millisecond, Repair: time.Minute}

// settle waits until the next sync is due. The first is due as soon as the source has
// delivered everything.
func (p *Proxy) settle(ctx context.Context) {
	p.mu.Lock()
	last := p.lastSync
	p.mu.Unlock()
	if last.IsZero() {
		return
	}
	due := time.Until(last.Add(p.pace.MinSync))
	wait := max(due, min(p.pace.MinSync, DefaultPace.MinSync))
	if wait <= 0 {
		return
	}
	rest(ctx, wait)
}

// timerError bounds by how much the runtime's timers are late in a process that is idle: it waits for whole
// milliseconds.
const timerError = 1500 * time.Microsecond

// rest waits until a time has passed or ctx is done, and is late by less than the runtime's timers are. Of the time
// from a change to its effect, 20 ms of which are the wait, the process itself needs a few hundred microseconds.
func rest(ctx context.Context, wait time.Duration) {
	end := time.Now().Add(wait)
	select {
	case <-ctx.Done():
		return
	case <-time.After(wait - timerError):
	}
	for left := time.Until(end); left > 0; left = time.Until(end) { // a signal, which the runtime sends, ends a sleep
		ts := unix.NsecToTimespec(left.Nanoseconds())
		_ = unix.Nanosleep(&ts, nil)
	}
}

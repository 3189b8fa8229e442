// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"time"
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
	select {
	case <-ctx.Done():
	case <-time.After(wait):
	}
}

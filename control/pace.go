// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"time"
)

// Pace tells how often the proxy works.
type Pace struct {
	// MinSync is the least time between two syncs. Up to 20 ms of it are waited for further
	// changes even after a long rest: those of a rollout come together.
	MinSync time.Duration
	// Repair is how often the maps, and what is attached, are compared with what they should be; it
	// bounds how long a change that somebody else made there lasts.
	Repair time.Duration
}

// DefaultPace is what agents have that are not told another.
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

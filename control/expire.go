// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/loader"
)

const (
	// expireEvery is how often dead flows are looked for ...
	expireEvery = 5 * time.Second
	// ... unless a walk takes long: then at most one part in so many of a CPU goes into them.
	expireDuty = 100
)

// FlowCensus is what the last walks over the flow tables found.
type FlowCensus struct {
	Records4 uint32 `json:"records4"`
	Records6 uint32 `json:"records6"`
	Expired  uint64 `json:"expired"` // since the agent started
}

// Expirer has dead flows deleted. The datapath does not depend on it for correctness: it
// ignores dead records, but their memory and ports come back only by this.
type Expirer struct {
	dp      *loader.Datapath
	log     *logrus.Entry
	foreign func(records uint32) // told after each walk

	mu     sync.Mutex
	census FlowCensus
}

// Census returns what the last walks found.
func (e *Expirer) Census() FlowCensus {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.census
}

// Run walks until ctx is done.
func (e *Expirer) Run(ctx context.Context) {
	wait := expireEvery
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		started := time.Now()
		e.walk()
		wait = max(expireEvery, expireDuty*time.Since(started))
	}
}

func (e *Expirer) walk() {
	v4, err := e.dp.Expire(false)
	if err != nil {
		e.log.WithError(err).Error("expiring IPv4 flows")
		return
	}
	v6, err := e.dp.Expire(true)
	if err != nil {
		e.log.WithError(err).Error("expiring IPv6 flows")
		return
	}
	e.foreign(v4.Foreign + v6.Foreign)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.census.Records4, e.census.Records6 = v4.Live, v6.Live
	e.census.Expired += uint64(v4.Expired) + uint64(v6.Expired)
}

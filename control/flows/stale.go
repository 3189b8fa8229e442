// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"context"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/netns"
	"github.com/waggle-lb/waggle/loader"
)

const (
	// staleAgain is the delay of a second look, which finds what the first has missed: a packet or a
	// connect may have chosen its backend just before the change, and be recorded just after the first
	// look.
	staleAgain = time.Second
	// staleDuty bounds the cost of looks while endpoints change all the time: 1/staleDuty of a CPU.
	staleDuty = 10
)

// StaleUDP removes clients' flows to UDP endpoints that have stopped serving, so that the next packet
// is balanced afresh, and aborts the sockets that are connected to them.
type StaleUDP struct {
	dp      *loader.Datapath
	log     *logrus.Entry
	stopped chan struct{}
	lacks   func(error) // called with what the kernel can't do, if there was something to do
}

// NewStaleUDP makes a StaleUDP; Run looks. After each look it calls lacks with what the kernel can't
// do of it, or nil.
func NewStaleUDP(dp *loader.Datapath, lacks func(error), log *logrus.Entry) *StaleUDP {
	return &StaleUDP{dp: dp, log: log, stopped: make(chan struct{}, 1), lacks: lacks}
}

// Stopped schedules a look after UDP endpoints may have stopped serving. Call it after the maps have
// been written.
func (s *StaleUDP) Stopped() {
	select {
	case s.stopped <- struct{}{}:
	default:
	}
}

// Run looks after calls of Stopped, until ctx is done.
func (s *StaleUDP) Run(ctx context.Context) {
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stopped:
			again = time.After(staleAgain)
		case <-again:
			again = nil
		}
		started := time.Now()
		s.look()
		select {
		case <-ctx.Done():
			return
		case <-time.After(staleDuty * time.Since(started)):
		}
	}
}

func (s *StaleUDP) look() {
	removed := uint32(0)
	for _, ipv6 := range []bool{false, true} {
		census, err := s.dp.DropStale(ipv6)
		if err != nil {
			s.log.WithError(err).Error("removing UDP flows to endpoints that no longer serve")
		}
		removed += census.Released
	}
	aborted, err := s.abortSockets()
	s.lacks(err)
	if removed > 0 || aborted > 0 {
		s.log.WithFields(logrus.Fields{"records": removed, "sockets": aborted}).
			Debug("removed UDP flows to endpoints that no longer serve")
	}
}

// abortSockets aborts them in every network namespace that has a process.
func (s *StaleUDP) abortSockets() (aborted int, err error) {
	if err := s.dp.CanAbortSockets(); err != nil {
		return 0, err
	}
	err = netns.Each(nil, func() error {
		n, err := s.dp.AbortStaleSockets()
		aborted += n
		return err
	})
	return aborted, err
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"cmp"
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// apiServer is the key for the API server as a whole: whether it answers at all.
const apiServer = "API server"

// patience is how long a request is held back at most, and the spread of this time over agents.
// client-go resets its backoff after two minutes without an attempt, so a request that was held back
// longer is soon retried if it fails.
const (
	patience       = 3 * time.Minute
	patienceSpread = time.Minute
)

// failure is the reason why a kind can't be followed.
type failure struct {
	since time.Time
	why   string
}

// sight is what the source sees of the cluster: each kind of object, and the API server.
type sight struct {
	log *logrus.Entry

	mu       sync.Mutex
	failures map[string]failure
	lost     time.Time     // when the first of the present failures, or of uninterrupted earlier ones, began
	back     chan struct{} // closed when the API server works again; nil while it works
}

func newSight(log *logrus.Entry) *sight {
	return &sight{log: log, failures: map[string]failure{}}
}

// fails notes that something can't be seen since then. The first reason stays.
func (s *sight) fails(what string, since time.Time, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.failures[what]; known {
		return
	}
	if len(s.failures) == 0 {
		s.lost = since
		s.log.WithField("what", what).Warn("can't follow the cluster; its last known state stays in force: " + why)
	}
	s.failures[what] = failure{since, why}
	if what == apiServer {
		s.back = make(chan struct{})
	}
}

// explain replaces the reason of a failure by a better one.
func (s *sight) explain(what, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f, failed := s.failures[what]; failed && f.why != why {
		s.log.WithField("what", what).Warn(why)
		s.failures[what] = failure{f.since, why}
	}
}

// works notes that something is seen, possibly again.
func (s *sight) works(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, failed := s.failures[what]; !failed {
		return
	}
	delete(s.failures, what)
	if what == apiServer {
		close(s.back)
		s.back = nil
	}
	if len(s.failures) == 0 {
		s.log.WithField("after", time.Since(s.lost).Round(time.Second)).Info("following the cluster again")
	}
}

// hold waits until the API server works, before a request that failed is sent again. Without it the
// informers would notice by themselves, but up to a minute later.
func (s *sight) hold(ctx context.Context, what string) {
	s.mu.Lock()
	_, failed := s.failures[what]
	back := s.back
	s.mu.Unlock()
	if !failed || back == nil {
		return
	}
	enough := time.NewTimer(patience + rand.N(patienceSpread))
	defer enough.Stop()
	select {
	case <-back:
	case <-enough.C:
	case <-ctx.Done():
	}
}

// blind returns since when something fails, and why: the failure of the API server as a whole, which
// explains the others, or else the oldest failure, with the name of its kind.
func (s *sight) blind() (since time.Time, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var first string
	for what, f := range s.failures {
		if first == "" || cmp.Or(f.since.Compare(s.failures[first].since), cmp.Compare(what, first)) < 0 {
			first = what
		}
	}
	if first == "" {
		return time.Time{}, ""
	}
	since = s.failures[first].since
	if _, failed := s.failures[apiServer]; failed {
		first = apiServer
	}
	return since, first + ": " + s.failures[first].why
}

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

// apiServer names, among what can fail, the API server as a whole: whether it answers at all.
const apiServer = "API server"

// patience is how long a request is held back at most, and by how much that differs from agent to
// agent. client-go forgets its backoff after two minutes without an attempt, so that what is held
// back longer is soon retried if it fails.
const (
	patience       = 3 * time.Minute
	patienceSpread = time.Minute
)

// failure is why something can't be followed.
type failure struct {
	since time.Time
	why   string
}

// sight is what the source sees of the cluster: of each kind of object, and of the API server.
type sight struct {
	log *logrus.Entry

	mu       sync.Mutex
	failures map[string]failure
	lost     time.Time     // when the first of them, or of those before them, began
	back     chan struct{} // closed when the API server works again; nil while it does
}

func newSight(log *logrus.Entry) *sight {
	return &sight{log: log, failures: map[string]failure{}}
}

// fails notes that something can't be seen since then. The first account of it stays.
func (s *sight) fails(what string, since time.Time, why string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.failures[what]; known {
		return
	}
	if len(s.failures) == 0 {
		s.lost = since
		s.log.WithField("what", what).Warn("can't follow the cluster; what is known of it stays in force: " + why)
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

// works notes that something is seen, again if it wasn't.
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
		s.log.WithField("after", time.Since(s.lost).Round(time.Second)).Info("the cluster is followed again")
	}
}

// hold waits, before something is asked again that failed, until the API server works. Without
// it the informers would find that out by themselves, but up to a minute later.
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

// blind is since when something fails, and why: the API server as a whole, whose failure explains the
// others, or else what has failed longest, with the name of what it is about.
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

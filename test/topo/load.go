// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"sync"
	"time"
)

// Report is the result of a load.
type Report struct {
	OK     int
	Failed int
	// Errors counts failures by their text.
	Errors map[string]int
	// Pods counts successes by the pod that answered.
	Pods map[string]int
	// LongestGap is the longest time without a success, from start to stop.
	LongestGap time.Duration
	Elapsed    time.Duration
}

// String formats the report for messages of tests.
func (r Report) String() string {
	return fmt.Sprintf("%d ok, %d failed in %s, longest gap %s, pods %v, errors %v",
		r.OK, r.Failed, r.Elapsed.Round(time.Millisecond), r.LongestGap.Round(time.Millisecond), r.Pods, r.Errors)
}

// Load repeats requests until it is stopped.
type Load struct {
	quit    chan struct{}
	workers sync.WaitGroup
	started time.Time

	mu      sync.Mutex
	success time.Time // the time of the last
	report  Report
}

// StartLoad makes requests one after the other in each of so many workers. Each
// worker makes at most one in every pause. A request is such as
//
//	func(int) topo.Reply { return client.Get(request) }
func StartLoad(workers int, pause time.Duration, request func(worker int) Reply) *Load {
	now := time.Now()
	l := &Load{
		quit:    make(chan struct{}),
		started: now,
		success: now,
		report:  Report{Errors: map[string]int{}, Pods: map[string]int{}},
	}
	for worker := range workers {
		l.workers.Go(func() { l.work(pause, func() Reply { return request(worker) }) })
	}
	return l
}

// Stop waits for the requests under way, and returns the report.
func (l *Load) Stop() Report {
	close(l.quit)
	l.workers.Wait()
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.noteGap(now)
	l.report.Elapsed = now.Sub(l.started)
	return l.report
}

func (l *Load) work(pause time.Duration, request func() Reply) {
	for {
		next := time.NewTimer(pause)
		l.count(request())
		select {
		case <-l.quit:
			next.Stop()
			return
		case <-next.C:
		}
	}
}

func (l *Load) count(reply Reply) {
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !reply.OK() {
		l.report.Failed++
		l.report.Errors[reply.Err]++
		return
	}
	l.report.OK++
	l.report.Pods[reply.Pod]++
	l.noteGap(now)
	l.success = now
}

func (l *Load) noteGap(now time.Time) {
	l.report.LongestGap = max(l.report.LongestGap, now.Sub(l.success))
}

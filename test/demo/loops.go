// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// loops are clients that send requests all the time, while things change.
type loops struct {
	all   []*loop
	loads []*topo.Load

	mu          sync.Mutex
	generation  int // of what is in force; odd while it changes
	first, last map[string]time.Time
}

// loop is one client, with its results since the last change began.
type loop struct {
	check    check
	requests int
	failures []string
	settled  *tally
}

// tally counts the requests that began and ended with the change in force.
type tally struct {
	requests int
	sawAs    map[string]map[netip.Addr]bool // by pods
}

func newTally() *tally { return &tally{sawAs: map[string]map[netip.Addr]bool{}} }

func (l *loops) ask(loop *loop) topo.Reply {
	l.mu.Lock()
	generation := l.generation
	l.mu.Unlock()
	reply := loop.check.ask(0)
	l.mu.Lock()
	defer l.mu.Unlock()
	loop.requests++
	if !reply.OK() {
		loop.failures = append(loop.failures, fmt.Sprintf("%s -> %s: %s", loop.check.from.name, loop.check.to, reply.Err))
		return reply
	}
	now := time.Now()
	if l.first[reply.Pod].IsZero() {
		l.first[reply.Pod] = now
	}
	l.last[reply.Pod] = now
	if generation == l.generation && generation%2 == 0 {
		loop.settled.note(reply)
	}
	return reply
}

func (t *tally) note(reply topo.Reply) {
	t.requests++
	if t.sawAs[reply.Pod] == nil {
		t.sawAs[reply.Pod] = map[netip.Addr]bool{}
	}
	t.sawAs[reply.Pod][reply.Remote.Addr()] = true
}

func (t *tally) pods() []string { return slices.Sorted(maps.Keys(t.sawAs)) }

// changing drops the results so far. From now on, the pods from before or from after the change may answer.
func (l *loops) changing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
	for _, loop := range l.all {
		loop.settled = newTally()
	}
}

func (l *loops) settled() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.generation++
}

// awaitEnough waits until every pod has answered each loop, and for a moment at least.
func (l *loops) awaitEnough(pods int) {
	const moment, atMost = 400 * time.Millisecond, 2 * time.Second
	time.Sleep(moment)
	for deadline := time.Now().Add(atMost); time.Now().Before(deadline) && !l.haveMet(pods); {
		time.Sleep(10 * time.Millisecond)
	}
}

func (l *loops) haveMet(pods int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return !slices.ContainsFunc(l.all, func(loop *loop) bool {
		return loop.settled.requests < enough || len(loop.settled.sawAs) < pods
	})
}

// judge returns what was wrong with the answers since its last call. nodeOf finds the node of a pod.
func (l *loops) judge(want []*place, nodeOf func(pod string) *topo.Node) (problems []string, requests, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, loop := range l.all {
		requests += loop.requests
		failed += len(loop.failures)
		if len(loop.failures) > 0 {
			problems = append(problems, loop.failures[0])
		}
		problems = append(problems, loop.judge(want, nodeOf)...)
		loop.requests, loop.failures = 0, nil
	}
	return problems, requests, failed
}

func (l *loop) judge(want []*place, nodeOf func(pod string) *topo.Node) (problems []string) {
	way := fmt.Sprintf("%s -> %s: ", l.check.from.name, l.check.to)
	for _, p := range want {
		if l.settled.sawAs[p.Name] == nil {
			problems = append(problems, way+p.Name+" never answered")
		}
	}
	for _, pod := range l.settled.pods() {
		if !slices.ContainsFunc(want, func(p *place) bool { return p.Name == pod }) {
			problems = append(problems, way+pod+" answered, which is not of the service")
			continue
		}
		allowed := l.check.clientAddrs(nodeOf(pod))
		for client := range l.settled.sawAs[pod] {
			if !slices.Contains(allowed, client) {
				problems = append(problems, fmt.Sprintf("%s%s saw %s, not %s", way, pod, client, list(allowed, " or ")))
			}
		}
	}
	return problems
}

// answerers returns the pods that have answered any loop since the change.
func (l *loops) answerers() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var pods []string
	for _, loop := range l.all {
		pods = append(pods, loop.settled.pods()...)
	}
	slices.Sort(pods)
	return slices.Compact(pods)
}

func (l *loops) firstAnswer(pod string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first[pod]
}

func (l *loops) lastAnswer(pod string) time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.last[pod]
}

// stop ends the traffic, if it wasn't ended already.
func (l *loops) stop() {
	loads := l.loads
	l.loads = nil
	for _, load := range loads {
		load.Stop()
	}
}

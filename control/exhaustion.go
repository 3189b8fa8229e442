// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// exhaustionQuiet is how long something that had run out must have sufficed for to be no trouble
// any more.
const exhaustionQuiet = time.Minute

// exhaustible is what packets need and may find used up.
type exhaustible struct {
	verdict bpf.Verdict // that counts when it is
	about   string
	trouble error
}

var exhaustibles = []exhaustible{
	{bpf.VerdictDropSNATExhausted, "source ports",
		errors.New("all of --snat-ports are in use towards some backend, whose new clients are dropped (drop-snat-exhausted)")},
	{bpf.VerdictDropFlowsFull, "table of flows",
		errors.New("flows4 or flows6 is full of confirmed flows, and new clients are dropped (drop-flows-full): see --map-size")},
}

// exhaustion watches the counters of what may run out. It is not safe for concurrent use.
type exhaustion struct {
	counted map[bpf.Verdict]uint64
	seen    map[bpf.Verdict]time.Time // when it was last counted
}

// look returns, for each of exhaustibles, its trouble or nil. What was counted before the first
// look is no trouble now.
func (e *exhaustion) look(counters []maps.Counter, now time.Time) []error {
	sums := map[bpf.Verdict]uint64{}
	for _, c := range counters {
		sums[c.Verdict] += c.Packets
	}
	out := make([]error, len(exhaustibles))
	for i, x := range exhaustibles {
		if e.counted != nil && sums[x.verdict] > e.counted[x.verdict] {
			e.seen[x.verdict] = now
		}
		if at, ok := e.seen[x.verdict]; ok && now.Sub(at) < exhaustionQuiet {
			out[i] = x.trouble
		}
	}
	if e.counted == nil {
		e.seen = map[bpf.Verdict]time.Time{}
	}
	e.counted = sums
	return out
}

// warnOfExhaustion tells what has run out lately.
func (a *Agent) warnOfExhaustion() {
	counters, err := maps.ReadCounters(a.dp)
	if err != nil {
		a.warn("counters", err)
		return
	}
	for i, trouble := range a.exhaustion.look(counters, time.Now()) {
		a.warn(exhaustibles[i].about, trouble)
	}
}

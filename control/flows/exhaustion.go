// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"errors"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// exhaustionQuiet is how long after the last shortage a Trouble is still reported.
const exhaustionQuiet = time.Minute

// Trouble is a resource that packets need and that may run out.
type Trouble struct {
	About string
	Err   error // nil while there is enough
}

// exhaustible is a Trouble, with the verdict that counts its shortages.
type exhaustible struct {
	verdict bpf.Verdict
	trouble Trouble
}

var exhaustibles = []exhaustible{
	{bpf.VerdictDropSNATExhausted, Trouble{"source ports",
		errors.New("all of --snat-ports are in use towards some backend, whose new clients are dropped (drop-snat-exhausted)")}},
	{bpf.VerdictDropFlowsFull, Trouble{"table of flows",
		errors.New("flows4 or flows6 is full of confirmed flows, and new clients are dropped (drop-flows-full): see --map-size")}},
}

// Exhaustion watches the counters of resources that may run out. It is not safe for concurrent use.
type Exhaustion struct {
	counted map[bpf.Verdict]uint64
	seen    map[bpf.Verdict]time.Time // when each verdict was last counted
}

// Look returns all resources that may run out. Err is set during a shortage and for a minute after.
// What was counted before the first look does not count.
func (e *Exhaustion) Look(counters []maps.Counter, now time.Time) []Trouble {
	sums := map[bpf.Verdict]uint64{}
	for _, c := range counters {
		sums[c.Verdict] += c.Packets
	}
	out := make([]Trouble, len(exhaustibles))
	for i, x := range exhaustibles {
		out[i].About = x.trouble.About
		if e.counted != nil && sums[x.verdict] > e.counted[x.verdict] {
			e.seen[x.verdict] = now
		}
		if at, ok := e.seen[x.verdict]; ok && now.Sub(at) < exhaustionQuiet {
			out[i].Err = x.trouble.Err
		}
	}
	if e.counted == nil {
		e.seen = map[bpf.Verdict]time.Time{}
	}
	e.counted = sums
	return out
}

// SPDX-License-Identifier: Apache-2.0

package maps

import "time"

// gracePeriod is longer than any program runs that read a map before the change: those run for
// microseconds. A program that was held up for longer sees which service the backend belongs to by
// then.
const gracePeriod = time.Second

// grace keeps what was given back until no running program can still refer to it.
type grace[T any] struct {
	items []graceItem[T]
}

type graceItem[T any] struct {
	value T
	since time.Time
}

func (g *grace[T]) add(v T, now time.Time) {
	g.items = append(g.items, graceItem[T]{v, now})
}

// expired removes and returns what has rested long enough.
func (g *grace[T]) expired(now time.Time) []T {
	var out []T
	for len(g.items) > 0 && now.Sub(g.items[0].since) >= gracePeriod {
		out = append(out, g.items[0].value)
		g.items = g.items[1:]
	}
	return out
}

// SPDX-License-Identifier: Apache-2.0

// Package pulse aligns what an agent does each second, so that its process wakes once for all of it: with each wake, the
// Go runtime has work of its own that takes longer than looking at a few values.
package pulse

import "time"

// period is the time from one pulse to the next.
const period = time.Second

var start = time.Now()

// Next returns the time until the next pulse, more than none.
func Next() time.Duration { return until(time.Since(start)) }

func until(running time.Duration) time.Duration { return period - running%period }

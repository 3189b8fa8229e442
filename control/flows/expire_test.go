// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"testing"
	"time"
)

// The longer a walk takes, the longer the pause, but at most a minute. Walks never take more than a
// hundredth of a CPU.
func TestPauseAfterWalk(t *testing.T) {
	for _, c := range []struct {
		took   time.Duration
		waited bool
		want   time.Duration
	}{
		{time.Millisecond, false, 5 * time.Second},
		{20 * time.Millisecond, false, 20 * time.Second},
		{100 * time.Millisecond, false, time.Minute},
		{2 * time.Second, false, 200 * time.Second},
		{20 * time.Millisecond, true, 5 * time.Second},
		{100 * time.Millisecond, true, 10 * time.Second},
	} {
		if got := pauseAfter(c.took, c.waited); got != c.want {
			t.Errorf("after a walk of %v, waited for %t: a pause of %v, want %v", c.took, c.waited, got, c.want)
		}
	}
}

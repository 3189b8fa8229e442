// SPDX-License-Identifier: Apache-2.0

package pulse

import (
	"testing"
	"time"
)

func TestUntil(t *testing.T) {
	for running, want := range map[time.Duration]time.Duration{
		0:                        period,
		1:                        period - 1,
		period - 1:               1,
		period:                   period, // not at once: a timer that is due at a pulse is set for the next one
		7*period + 300*time.Hour: period,
		2500 * time.Millisecond:  500 * time.Millisecond,
	} {
		if got := until(running); got != want {
			t.Errorf("after %v: %v until the next pulse, want %v", running, got, want)
		}
	}
}

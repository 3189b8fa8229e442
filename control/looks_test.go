// SPDX-License-Identifier: Apache-2.0

package control

import (
	"testing"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
)

// A long look at all services lets changes through between any two of them.
func TestLooksGiveWay(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.begin(fleet(20)...)
	f.slice = 0
	f.mu.Lock()
	defer f.mu.Unlock()
	steps := 0
	f.reconciler.EachBackend(func(maps.Backend) {}, func() { steps++ })
	f.reconciler.EachFrontend(func(maps.Frontend, maps.Kind) {}, func() { steps++ })
	if steps != 2*20 {
		t.Errorf("looks at the backends and at the frontends of 20 services paused %d times", steps)
	}
	through := make(chan struct{})
	go func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		close(through)
	}()
	pause := f.pauses()
	await.Until(t, func() (string, bool) {
		pause()
		select {
		case <-through:
			return "", true
		default:
			return "a change waits until the look is over", false
		}
	})
}

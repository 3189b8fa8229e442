// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// settled reports whether the next sync is due within the test's patience.
func settled(t *testing.T, p *Proxy, ctx context.Context) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.settle(ctx)
	}()
	select {
	case <-done:
	case <-time.After(topo.Patient(20 * time.Second)):
		t.Fatal("it still waits")
	}
}

func TestPace(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.lastSync = time.Now()
	f.pace.MinSync = 0
	settled(t, f.Proxy, t.Context())

	f.pace.MinSync = 24 * time.Hour // after a rest it does not wait for that long
	f.lastSync = time.Now().Add(-25 * time.Hour)
	settled(t, f.Proxy, t.Context())

	f.lastSync = time.Now() // but right after a sync it does, though not beyond the agent's end
	ctx, cancel := context.WithCancel(t.Context())
	waiting := make(chan struct{})
	go func() {
		defer close(waiting)
		f.settle(ctx)
		if ctx.Err() == nil {
			t.Error("a sync is due before its time")
		}
	}()
	cancel()
	<-waiting
}

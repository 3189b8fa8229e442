// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"context"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/layer2"
)

// countingWire counts how often the kernel's time is extended.
type countingWire struct{ extended int }

func (w *countingWire) Hold(netip.Addr, []int) error        { return nil }
func (w *countingWire) Release(netip.Addr) error            { return nil }
func (w *countingWire) Extend(time.Duration) error          { w.extended++; return nil }
func (w *countingWire) Drop() error                         { return nil }
func (w *countingWire) Defend(netip.Addr)                   {}
func (w *countingWire) Held() (map[netip.Addr][]int, error) { return nil, nil }
func (w *countingWire) Remaining() (time.Duration, error)   { return 0, nil }
func (w *countingWire) Devices() ([]layer2.Device, error)   { return nil, nil }
func (w *countingWire) Refresh() error                      { return nil }
func (w *countingWire) Close() error                        { return nil }
func (w *countingWire) Probe(context.Context, netip.Addr, []int) (net.HardwareAddr, error) {
	return nil, nil
}

// TestBeatsBetweenEvents: the kernel's time is extended while events are handled that take longer than it all together, as
// when thousands of addresses are announced at once.
func TestBeatsBetweenEvents(t *testing.T) {
	log := logrus.New()
	log.Out = io.Discard
	wire := &countingWire{}
	a := New(Options{
		Node: "a", Wire: wire, Inputs: func() (Inputs, bool) { return Inputs{}, false },
		Warn: func(string, error) {}, Seen: func() {}, Log: logrus.NewEntry(log),
	})
	var first, last int
	const events = 40
	done := make(chan struct{})
	a.later(func() { first = wire.extended })
	for range events {
		a.later(func() { time.Sleep(DefaultTiming.Beat / 4) })
	}
	a.later(func() { last = wire.extended; close(done) })
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); a.Run(ctx) }()
	<-done
	cancel()
	<-ended
	if n := last - first; n < events/8 {
		t.Errorf("the time was extended %d times during %d events that take %s in all", n, events, events*DefaultTiming.Beat/4)
	}
}

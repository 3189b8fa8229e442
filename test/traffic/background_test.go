// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// background is traffic that what a test does meanwhile must not disturb.
type background struct {
	loads map[string]*topo.Load
	pause time.Duration
}

// startBackground starts without any traffic. What is added runs until check.
func startBackground(pause time.Duration) *background {
	return &background{loads: map[string]*topo.Load{}, pause: pause}
}

// add repeats a request until check.
func (b *background) add(name string, request func() topo.Reply) {
	b.loads[name] = topo.StartLoad(1, b.pause, func(int) topo.Reply { return request() })
}

// addStream uses one socket for as long as the background lasts.
func (b *background) addStream(t *testing.T, name string, stream *topo.Stream, opened topo.Reply) {
	t.Helper()
	if !opened.OK() {
		t.Fatalf("%s: %s", name, opened)
	}
	b.add(name, func() topo.Reply { return stream.Exchange(1000) })
}

// addConnections adds loops of new connections by some ways, in both families.
func (b *background) addConnections(svc service, ways []way) {
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			to := w.to(svc, http, v6)
			b.add(fmt.Sprintf("%s/%s/%s/new", svc.name, w.name, familyName(v6)), func() topo.Reply {
				return w.client.Get(topo.Request{To: to})
			})
		}
	}
}

// addStreams adds a TCP and a UDP stream by some ways, in both families.
func (b *background) addStreams(t *testing.T, svc service, ways []way) {
	t.Helper()
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			name := fmt.Sprintf("%s/%s/%s/stream-", svc.name, w.name, familyName(v6))
			stream, opened := w.client.OpenTCP(topo.Request{To: w.to(svc, echo, v6)})
			b.addStream(t, name+"tcp", stream, opened)
			stream, opened = w.client.OpenUDP(topo.Request{To: w.to(svc, dns, v6)})
			b.addStream(t, name+"udp", stream, opened)
		}
	}
}

// check ends the traffic. None of it may have failed, and none may have paused.
func (b *background) check(t *testing.T) {
	t.Helper()
	ok := 0
	for name, load := range b.loads {
		report := load.Stop()
		ok += report.OK
		if report.Failed > 0 || report.OK == 0 {
			t.Errorf("%s: %s", name, report)
		}
	}
	t.Logf("%d loops of requests, %d requests", len(b.loads), ok)
}

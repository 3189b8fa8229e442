// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/serve/servetest"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/test/await"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// agentFixture is a whole agent, with its datapath but without devices and sockets. The test is
// its source.
type agentFixture struct {
	*Agent
	t     *testing.T
	logs  *logtest.Hook
	sink  source.Sink // once it runs
	ended chan error
}

// testSource delivers what the test calls its sink with.
type testSource struct {
	sink     chan source.Sink
	problems []status.Problem
	blind    time.Time
	held     atomic.Pointer[[]string]
}

// hold has it hold these Services, and no others.
func (s *testSource) hold(names ...string) { s.held.Store(&names) }

func (s *testSource) Run(ctx context.Context, sink source.Sink) error {
	s.sink <- sink
	<-ctx.Done()
	return nil
}

func (s *testSource) Problems() []status.Problem { return s.problems }

func (s *testSource) Blind() (time.Time, string) { return s.blind, "" }

func (s *testSource) Held() []string {
	if held := s.held.Load(); held != nil {
		return *held
	}
	return nil
}

func (s *testSource) Notices() []string { return []string{"a notice of the source"} }

// newAgentFixture makes an agent; what serves listens on free ports of 127.0.0.1.
func newAgentFixture(t *testing.T, src *testSource, edit func(*Config)) *agentFixture {
	t.Helper()
	dir := loadertest.NewPinDir(t)
	logger, hook := logtest.NewNullLogger()
	cfg := Config{
		NodeName: thisNode, Version: "v0", RunDir: filepath.Join(t.TempDir(), "run"),
		Loader: loader.Options{PinDir: dir, Log: loadertest.Quiet(), MapSizes: map[string]uint32{
			"flows4": 64, "flows6": 64, "slots": 64, "backends": 64,
			"services4": 4, "services6": 4, "service_names": 64, "sock_flows": 64,
		}},
		Rules: node.DeviceRules{Ignore: []string{"*"}},
		Serve: serve.Config{Healthz: servetest.FreeAddress(t), Metrics: servetest.FreeAddress(t)},
		Pace:  Pace{Repair: 100 * time.Millisecond},
	}
	if edit != nil {
		edit(&cfg)
	}
	a, err := NewAgent(cfg, src, logrus.NewEntry(logger))
	must(t, err)
	return &agentFixture{Agent: a, t: t, logs: hook, ended: make(chan error, 1)}
}

// start runs the agent until the test ends.
func (f *agentFixture) start() *agentFixture {
	f.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	src := f.src.(*testSource)
	src.sink = make(chan source.Sink, 1)
	go func() { f.ended <- f.Run(ctx) }()
	f.t.Cleanup(func() {
		cancel()
		must(f.t, <-f.ended)
	})
	f.sink = <-src.sink
	return f
}

// begin delivers all objects that exist at first.
func (f *agentFixture) begin(objects ...any) {
	deliver(f.sink, objects...)
	f.sink.OnSynced()
}

// awaitStatus waits for an answer with a status, and returns its body and header.
func (f *agentFixture) awaitStatus(address, path string, want int) (string, http.Header) {
	f.t.Helper()
	return servetest.AwaitStatus(f.t, address, path, want)
}

// awaitWarning waits for a warning that holds a text, or until there is none.
func (f *agentFixture) awaitWarning(text string, there bool) {
	f.t.Helper()
	await.Until(f.t, func() (string, bool) {
		all := f.warnings.all()
		found := slices.ContainsFunc(all, func(w string) bool { return strings.Contains(w, text) })
		return fmt.Sprintf("warnings %q; want %q there: %v", all, text, there), found == there
	})
}

func portOf(address string) int32 { return int32(netip.MustParseAddrPort(address).Port()) }

// node is our Node object, with an address that tests can listen on.
func nodeAt(address string, edits ...func(*v1.Node)) *v1.Node {
	n := nodeObject(thisNode, "zone-a")
	n.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: address}}
	for _, edit := range edits {
		edit(n)
	}
	return n
}

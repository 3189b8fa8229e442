// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/test/await"
)

// Whatever changes, the status file is replaced at most once a second, and not at all if nothing has changed.
func TestStatusIsWrittenOnceASecond(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Pace = Pace{Repair: time.Hour} }).start()
	f.begin()
	must(t, os.MkdirAll(f.cfg.RunDir, 0o755))
	var replaced atomic.Int32
	watch, err := fsnotify.NewWatcher()
	must(t, err)
	t.Cleanup(func() { watch.Close() })
	must(t, watch.Add(f.cfg.RunDir))
	go func() {
		for e := range watch.Events {
			if e.Name == rundir.StatusFile(f.cfg.RunDir) && e.Has(fsnotify.Create) {
				replaced.Add(1)
			}
		}
	}()
	shown := func(services int) {
		t.Helper()
		await.Until(t, func() (string, bool) {
			s, err := status.Read(f.cfg.RunDir)
			return fmt.Sprintf("status %+v, error %v; want %d services", s, err, services), err == nil && s.Proxy.Services == services
		})
	}
	shown(0)
	replaced.Store(0)
	started := time.Now()
	const changes = 30
	a := serviceObject("a", "10.96.0.1")
	for n := range changes {
		deliver(f.sink, a)
		time.Sleep(50 * time.Millisecond)
		if n < changes-1 {
			f.sink.OnService(a, nil)
		}
		time.Sleep(50 * time.Millisecond)
	}
	shown(1)
	if n, most := replaced.Load(), int32(time.Since(started).Seconds())+2; n == 0 || n > most {
		t.Errorf("%d changes in %v: the file was replaced %d times, want at most %d", changes, time.Since(started), n, most)
	}
	time.Sleep(2 * statusPause) // the last sync may be reported after the service
	replaced.Store(0)
	time.Sleep(statusEvery + statusPause)
	if n := replaced.Load(); n > 0 {
		t.Errorf("nothing has changed, but the file was replaced %d times", n)
	}
}

func TestWarn(t *testing.T) {
	a := &Agent{log: loadertest.Quiet(), warnings: findings{level: logrus.WarnLevel}}
	a.warn("links", os.ErrPermission)
	a.warn("links", os.ErrPermission)
	a.warn("devices", os.ErrNotExist)
	a.warn("devices", nil)
	if got, want := a.warnings.all(), []string{"links: permission denied"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	a.warnings.replace(a.log, "hooks", []string{"two", "one"})
	if got, want := a.warnings.all(), []string{"links: permission denied", "one", "two"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got, want := a.warnings.counts(), map[string]int{"links": 1, "hooks": 2}; !cmp.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// located is a source that is somewhere.
type located struct{ testSource }

func (*located) Location() string { return "API server 10.0.0.1:6443 (--api-server)" }

func TestSourceName(t *testing.T) {
	a := &Agent{cfg: Config{SourceName: "Kubernetes, as a pod"}, src: &located{}}
	if got, want := a.sourceName(), "Kubernetes, as a pod; API server 10.0.0.1:6443 (--api-server)"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	a.src = &testSource{}
	if got := a.sourceName(); got != a.cfg.SourceName {
		t.Errorf("got %q", got)
	}
}

// The kernel's parameters of its table of connections are among the notices from the start.
func TestConntrackIsTold(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, func(c *Config) {
		c.Conntrack = []node.ConntrackParameter{{From: "conntrack.min", Name: "nf_conntrack_no_such", Want: 7, Given: true}}
	})
	t.Cleanup(func() { must(t, f.dp.Close()) })
	if all := f.notices.all(); !slices.ContainsFunc(all, func(n string) bool { return strings.HasPrefix(n, "conntrack.min: kube-proxy would set") }) {
		t.Errorf("notices %q", all)
	}
}

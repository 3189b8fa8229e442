// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/loader"
)

func TestStatusFile(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	_, err := ReadStatus(dir)
	if err == nil || !strings.Contains(err.Error(), "no agent has run here yet") || !strings.Contains(err.Error(), "--run-dir") {
		t.Errorf("no status: got error %v", err)
	}
	want := &Status{
		PID: 1, Version: "devel", Node: thisNode, PinDir: "/sys/fs/bpf/no-such", Source: "manifests in /x",
		Started:  time.Unix(1, 0).UTC(),
		Proxy:    ProxyStatus{Synced: true, Services: 3, Failures: []string{"f"}},
		Devices:  []DeviceStatus{{Name: "eth0", Ifindex: 2, Role: RoleExternal, XDP: "native", TC: "attached", Express: true, Addr4: "10.0.0.1"}},
		Links:    []loader.LinkStatus{{Hook: "xdp", Kind: "xdp-native", Device: "eth0", Ifindex: 2, Program: "waggle_xdp", ProgramID: 5, LinkID: 6, Attached: true}},
		Flows:    FlowCensus{FamilyCensus{1, 2}, FamilyCensus{3, 4}, 5},
		Problems: []source.Problem{{File: "a.yaml", Document: 1, Object: "Service default/a", Message: "bad", Since: time.Unix(3, 0).UTC()}},
		Warnings: []string{"w"},
		Notices:  []string{"n"},
	}
	file, w := filepath.Join(dir, statusFile), statusWriter{dir: dir}
	for version := range 2 { // the second replaces the first
		want.Version = fmt.Sprint("v", version)
		must(t, w.write(want))
		first, err := os.Stat(file)
		must(t, err)
		must(t, os.Chtimes(file, time.Unix(2, 0), time.Unix(2, 0)))
		must(t, w.write(want)) // nothing new but that it is still right
		second, err := os.Stat(file)
		must(t, err)
		if !os.SameFile(first, second) || second.ModTime().Before(first.ModTime()) {
			t.Errorf("the status has not changed, but the file was replaced, or its time is old: %v", second.ModTime())
		}
		got, err := ReadStatus(dir)
		must(t, err)
		if !got.Written.Equal(second.ModTime()) {
			t.Errorf("written at %v, but the file's time is %v", got.Written, second.ModTime())
		}
		got.Written = time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("status (-want +got):\n%s", diff)
		}
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("files %v, error %v", entries, err)
	}
	if want.Alive() {
		t.Error("nobody holds the pin directory, but the agent is said to be alive")
	}
	must(t, os.MkdirAll(filepath.Join(CacheDir(dir), "x"), 0o700))
	for _, want := range [][]string{{CacheDir(dir), filepath.Join(dir, statusFile), dir}, nil} {
		if removed, err := RemoveRunFiles(dir); err != nil || !slices.Equal(removed, want) {
			t.Errorf("removed %q (%v), want %q", removed, err, want)
		}
	}
	if _, err := os.Stat(dir); err == nil {
		t.Error("the directory is left")
	}
}

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
			if e.Name == filepath.Join(f.cfg.RunDir, statusFile) && e.Has(fsnotify.Create) {
				replaced.Add(1)
			}
		}
	}()
	shown := func(services int) {
		t.Helper()
		await(t, func() (string, bool) {
			s, err := ReadStatus(f.cfg.RunDir)
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
	time.Sleep(2 * statusPause) // the last sync may have been told after the service
	replaced.Store(0)
	time.Sleep(statusEvery + statusPause)
	if n := replaced.Load(); n > 0 {
		t.Errorf("nothing has changed, but the file was replaced %d times", n)
	}
}

func TestStatusFileSpoilt(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, statusFile), []byte("{"), 0o644))
	if _, err := ReadStatus(dir); err == nil || !strings.Contains(err.Error(), statusFile) {
		t.Errorf("got error %v", err)
	}
	must(t, os.WriteFile(filepath.Join(dir, "notes"), nil, 0o644))
	if removed, err := RemoveRunFiles(dir); err != nil || !slices.Equal(removed, []string{filepath.Join(dir, statusFile)}) {
		t.Errorf("removed %q (%v)", removed, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "notes")); err != nil {
		t.Errorf("somebody else's file: %v", err)
	}
}

func TestWarn(t *testing.T) {
	a := &Agent{log: quiet(), warnings: findings{level: logrus.WarnLevel}}
	a.warn("links", os.ErrPermission)
	a.warn("links", os.ErrPermission)
	a.warn("devices", os.ErrNotExist)
	a.warn("devices", nil)
	if got, want := a.warnings.all(), []string{"links: permission denied"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	a.warnings.tell(a.log, "hooks", []string{"two", "one"})
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

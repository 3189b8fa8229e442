// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/control/status"
)

// directory is a directory of manifests.
type directory struct {
	t    *testing.T
	path string
}

func newDirectory(t *testing.T, files ...string) directory {
	t.Helper()
	d := directory{t, t.TempDir()}
	for i := 0; i < len(files); i += 2 {
		d.write(files[i], files[i+1])
	}
	return d
}

// write replaces a file as most editors do: by a rename.
func (d directory) write(name, text string) {
	d.t.Helper()
	path := filepath.Join(d.path, name)
	temp := filepath.Join(d.path, ".new")
	d.must(os.MkdirAll(filepath.Dir(path), 0o755))
	d.must(os.WriteFile(temp, []byte(text), 0o644))
	d.must(os.Rename(temp, path))
}

// overwrite writes in place.
func (d directory) overwrite(name, text string) {
	d.t.Helper()
	d.must(os.WriteFile(filepath.Join(d.path, name), []byte(text), 0o644))
}

func (d directory) remove(name string) {
	d.t.Helper()
	d.must(os.RemoveAll(filepath.Join(d.path, name)))
}

func (d directory) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d directory) options() Options {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return Options{Dir: d.path, Log: logrus.NewEntry(log)}
}

func (d directory) load() *Snapshot {
	d.t.Helper()
	snapshot, err := Load(d.options())
	d.must(err)
	return snapshot
}

// recorder is a Sink that records its calls in their order.
type recorder struct {
	mu       sync.Mutex
	calls    []string
	services map[string]*v1.Service
	slices   map[string]*discovery.EndpointSlice
	nodes    map[string]*v1.Node
	cidrs    []netip.Prefix
	synced   int
}

func newRecorder() *recorder {
	return &recorder{
		services: map[string]*v1.Service{},
		slices:   map[string]*discovery.EndpointSlice{},
		nodes:    map[string]*v1.Node{},
	}
}

func (r *recorder) OnService(old, new *v1.Service) { record(r, kindService, r.services, old, new) }
func (r *recorder) OnNode(old, new *v1.Node)       { record(r, kindNode, r.nodes, old, new) }
func (r *recorder) OnEndpointSlice(old, new *discovery.EndpointSlice) {
	record(r, kindEndpointSlice, r.slices, old, new)
}

func (r *recorder) OnServiceCIDRs(prefixes []netip.Prefix) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cidrs = prefixes
}

func (r *recorder) OnSynced() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls = append(r.calls, "synced")
	r.synced++
}

type named interface {
	GetName() string
	GetNamespace() string
}

// record checks that the old object of a change is the one that was delivered last.
func record[T any, P interface {
	*T
	named
}](r *recorder, kind string, all map[string]P, old, new P) {
	r.mu.Lock()
	defer r.mu.Unlock()
	verb, at := "update", new
	switch {
	case old == nil:
		verb = "add"
	case new == nil:
		verb, at = "delete", old
	}
	key := objectKey{kind, at.GetNamespace(), at.GetName()}
	if before := all[key.qualifiedName()]; before != old {
		r.calls = append(r.calls, fmt.Sprintf("WRONG OLD %s", key))
	}
	if all[key.qualifiedName()] = new; new == nil {
		delete(all, key.qualifiedName())
	}
	r.calls = append(r.calls, verb+" "+key.String())
}

func (r *recorder) drain() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	calls := r.calls
	r.calls = nil
	return calls
}

func (r *recorder) service(name string) *v1.Service {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.services[name]
}

func (r *recorder) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.services)
}

func (r *recorder) isSynced() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.synced > 0
}

// bench looks at a directory when the test calls it, so that tests need not wait.
type bench struct {
	directory
	*recorder
	problems *problems
	state    *state
	started  bool
}

func newBench(d directory) *bench { return newBenchWith(d, d.options()) }

func newBenchWith(d directory, opts Options) *bench {
	d.t.Helper()
	opts, err := opts.complete()
	d.must(err)
	found := newProblems(opts.Log)
	return &bench{directory: d, recorder: newRecorder(), problems: found, state: newState(opts, found, false)}
}

// look returns the calls that a look at the directory leads to.
func (b *bench) look() []string {
	b.t.Helper()
	found, err := b.state.tree.scan(look{all: true}, func(string, fs.FileInfo) {})
	d := b.state.apply(context.Background(), found, err)
	if b.started {
		d.emit(b.recorder)
	} else {
		d.emitStart(b.recorder)
	}
	b.started = true
	return b.drain()
}

// wantProblems compares problems as "file:document object field: message", where the message
// need only begin so.
func wantProblems(t *testing.T, dir string, got []status.Problem, want ...string) {
	t.Helper()
	lines := []string{}
	for _, p := range got {
		file, _ := filepath.Rel(dir, p.File)
		lines = append(lines, fmt.Sprintf("%s:%d %s %s: %s", file, p.Document, p.Object, p.Field, p.Message))
	}
	beginsSo := cmp.Comparer(func(a, b string) bool { return strings.HasPrefix(a, b) || strings.HasPrefix(b, a) })
	if diff := cmp.Diff(want, lines, beginsSo, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("problems (-want +got):\n%s", diff)
	}
}

func wantCalls(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 5 s: %s", what)
}

func serviceYAML(name, spec string) string {
	text := "apiVersion: v1\nkind: Service\nmetadata: {name: " + name + "}\nspec:\n"
	for _, line := range strings.Split(strings.Trim(spec, "\n"), "\n") {
		text += "  " + line + "\n"
	}
	return text
}

const onePort = "ports: [{port: 80}]"

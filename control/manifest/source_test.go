// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
)

// patient never looks without a reason within the time of a test.
var patient = pace{settle: 20 * time.Millisecond, patience: 200 * time.Millisecond, reread: time.Hour, retry: 20 * time.Millisecond, release: 20 * time.Millisecond}

// runSource runs a source until the test ends.
func runSource(d directory, p pace) (*Source, *recorder) {
	d.t.Helper()
	return runSourceWith(d, d.options(), p)
}

func runSourceWith(d directory, opts Options, p pace) (*Source, *recorder) {
	d.t.Helper()
	s, err := New(opts)
	d.must(err)
	s.pace = p
	sink := newRecorder()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx, sink) }()
	d.t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			d.t.Errorf("Run: %v", err)
		}
		if sink.synced > 1 {
			d.t.Errorf("OnSynced was called %d times", sink.synced)
		}
	})
	return s, sink
}

func TestWatch(t *testing.T) {
	d := newDirectory(t, "a.yaml", webYAML)
	s, sink := runSource(d, patient)
	eventually(t, "synced", sink.isSynced)
	if sink.mu.Lock(); !slices.Equal(sink.cidrs, defaultServiceCIDRs) {
		t.Errorf("the sink got the ranges %v", sink.cidrs)
	}
	sink.mu.Unlock()
	has := func(name string) func() bool { return func() bool { return sink.service(name) != nil } }
	hasNot := func(name string) func() bool { return func() bool { return sink.service(name) == nil } }
	healthy := func() bool { return len(s.Problems()) == 0 }

	d.write("b.yaml", dnsYAML)
	eventually(t, "a new file", has("default/dns"))

	d.write("b.yaml", serviceYAML("dns2", "clusterIP: 10.96.0.2\nports: [{port: 53}]"))
	eventually(t, "a rename over a file", has("default/dns2"))
	eventually(t, "what it held before", hasNot("default/dns"))

	d.overwrite("b.yaml", webYAML[:60]+"\n  [")
	eventually(t, "a problem with a half-written file", func() bool { return !healthy() })
	if sink.service("default/dns2") == nil {
		t.Error("a half-written file took its Service down")
	}
	d.overwrite("b.yaml", dnsYAML)
	eventually(t, "the rest of the file", has("default/dns"))
	eventually(t, "the end of the problem", healthy)

	d.remove("b.yaml")
	eventually(t, "the removal of a file", hasNot("default/dns"))

	d.write("new/deep/c.yaml", dnsYAML)
	eventually(t, "a file in a new directory", has("default/dns"))
	d.write("new/deep/d.yaml", serviceYAML("late", "clusterIP: None"))
	eventually(t, "a later file in it", has("default/late"))
	d.remove("new")
	eventually(t, "the removal of a directory", hasNot("default/late"))
	d.write("new/e.yaml", dnsYAML)
	eventually(t, "the directory again", has("default/dns"))
	d.write("new/f.yaml", serviceYAML("late", "clusterIP: None"))
	eventually(t, "a later file in that", has("default/late"))
}

func TestWatchFollowsAllocations(t *testing.T) {
	d := newDirectory(t, "a.yaml", serviceYAML("a", onePort))
	_, sink := runSource(d, patient)
	eventually(t, "synced", sink.isSynced)
	d.write(allocationFileName, `{"version":1,"services":{"default/a":{"clusterIPs":["10.96.77.77"]}}}`)
	eventually(t, "what another agent wrote", func() bool { return sink.service("default/a").Spec.ClusterIP == "10.96.77.77" })
}

func TestWatchFollowsAMountedConfigMap(t *testing.T) {
	d := newDirectory(t, "..v1/a.yaml", webYAML, "..v2/a.yaml", dnsYAML)
	d.must(os.Symlink("..v1", filepath.Join(d.path, "..data")))
	d.must(os.Symlink("..data/a.yaml", filepath.Join(d.path, "a.yaml")))
	_, sink := runSource(d, patient)
	eventually(t, "the first version", func() bool { return sink.service("default/web") != nil })
	d.must(os.Symlink("..v2", filepath.Join(d.path, "..tmp")))
	d.must(os.Rename(filepath.Join(d.path, "..tmp"), filepath.Join(d.path, "..data")))
	eventually(t, "the second version", func() bool { return sink.service("default/dns") != nil && sink.service("default/web") == nil })
}

func TestDirectoryThatIsNotThereYet(t *testing.T) {
	d := newDirectory(t)
	d.path = filepath.Join(d.path, "later")
	s, sink := runSource(d, patient)
	eventually(t, "a problem", func() bool { return len(s.Problems()) > 0 })
	if calls := sink.drain(); len(calls) > 0 {
		t.Errorf("the sink got %q before anything is known", calls)
	}
	d.write("a.yaml", webYAML)
	eventually(t, "synced", sink.isSynced)
	eventually(t, "the Service", func() bool { return sink.service("default/web") != nil })
	d.write("b.yaml", dnsYAML)
	eventually(t, "a later file", func() bool { return sink.service("default/dns") != nil })
}

func TestRereadFindsWhatNoEventTold(t *testing.T) {
	d := newDirectory(t, "a.yaml", webYAML)
	opts, err := d.options().complete()
	d.must(err)
	sink := newRecorder()
	r := &run{
		Source: &Source{opts: opts, problems: newProblems(opts.Log), pace: patient},
		sink:   sink, state: newState(opts, newProblems(opts.Log), false),
		watch: &watch{allocations: opts.AllocationFile, entered: map[string]inode{}, seen: map[string]bool{}},
	}
	r.pace.reread = 10 * time.Millisecond
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { r.start(ctx); r.loop(ctx); close(done) }()
	eventually(t, "synced", sink.isSynced)
	d.write("b.yaml", dnsYAML)
	eventually(t, "the new file", func() bool { return sink.service("default/dns") != nil })
	cancel()
	<-done
}

func TestStartWaitsForAHalfWrittenFile(t *testing.T) {
	d := newDirectory(t, "a.yaml", webYAML, "b.yaml", dnsYAML[:50]+"[")
	p := patient
	p.settle = 300 * time.Millisecond
	_, sink := runSource(d, p)
	time.Sleep(20 * time.Millisecond)
	d.overwrite("b.yaml", dnsYAML)
	eventually(t, "synced", sink.isSynced)
	wantCalls(t, sink.drain(), "add Service default/dns", "add Service default/web", "synced")
}

// TestSourcesShareADirectory has several sources follow one directory while it changes.
func TestSourcesShareADirectory(t *testing.T) {
	d := newDirectory(t)
	const agents, services = 3, 20
	var sinks []*recorder
	for range agents {
		_, sink := runSource(d, patient)
		sinks = append(sinks, sink)
	}
	for n := range services {
		d.write(fmt.Sprintf("%02d.yaml", n), serviceYAML(fmt.Sprintf("s%d", n), "type: NodePort\nipFamilyPolicy: PreferDualStack\n"+onePort))
		if n%4 == 0 {
			d.remove(fmt.Sprintf("%02d.yaml", n/2))
		}
		time.Sleep(5 * time.Millisecond)
	}
	snapshot := func(r *recorder) map[string]v1.ServiceSpec {
		r.mu.Lock()
		defer r.mu.Unlock()
		all := map[string]v1.ServiceSpec{}
		for name, s := range r.services {
			all[name] = s.Spec
		}
		return all
	}
	eventually(t, "agreement", func() bool {
		first := snapshot(sinks[0])
		for _, sink := range sinks[1:] {
			if len(first) != services-5 || !cmp.Equal(first, snapshot(sink)) {
				return false
			}
		}
		return true
	})
}

// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

func (d directory) allocations() string { return filepath.Join(d.path, allocationFileName) }

func (d directory) read(path string) string {
	d.t.Helper()
	data, err := os.ReadFile(path)
	d.must(err)
	return string(data)
}

func TestAllocationsOutliveARestart(t *testing.T) {
	d := newDirectory(t, "a.yaml", clusterIPYAML("x", "10.0.0.2"), "b.yaml", serviceYAML("b", "type: NodePort\nports: [{port: 80}]"))
	b := newBenchWith(d, tight(d))
	b.look()
	wantGiven(t, b, given(b.services, "b")...)
	want := given(b.services, "b")
	written := d.read(d.allocations())

	d.remove("a.yaml") // the better choice may be free now, which must not matter
	again := newBenchWith(d, tight(d))
	again.look()
	wantGiven(t, again, want...)
	if strings.Contains(written, `"default/x"`) == false {
		t.Errorf("the file lacks what was given:\n%s", written)
	}
}

func TestAllocationFileIsWrittenOnlyOnChange(t *testing.T) {
	b := newBench(newDirectory(t, "a.yaml", serviceYAML("a", onePort)))
	b.look()
	stamp := func() stamp {
		info, err := os.Stat(b.allocations())
		b.must(err)
		return stampOf(info)
	}
	before := stamp()
	b.write("a.yaml", serviceYAML("a, labels: {a: b}", onePort))
	wantCalls(t, b.look(), "update Service default/a")
	if stamp() != before {
		t.Error("the file was written though nothing of it changed")
	}
	b.remove("a.yaml")
	b.look()
	if stamp() == before || strings.Contains(b.read(b.allocations()), "default/a") {
		t.Error("the Service is gone but keeps what it had")
	}
}

func TestCorruptAllocationFile(t *testing.T) {
	for name, text := range map[string]string{
		"no JSON":       "{",
		"unknown field": `{"version":1,"services":{},"more":1}`,
		"bad address":   `{"version":1,"services":{"default/a":{"clusterIPs":["10.0.0"]}}}`,
		"no address":    `{"version":1,"services":{"default/a":{"clusterIPs":[""]}}}`,
		"bad port":      `{"version":1,"services":{"default/a":{"nodePorts":[{"protocol":"TCP","nodePort":0}]}}}`,
		"bad protocol":  `{"version":1,"services":{"default/a":{"nodePorts":[{"protocol":"","nodePort":1}]}}}`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(newDirectory(t, allocationFileName, text, "a.yaml", serviceYAML("a", onePort)))
			wantProblems(t, b.path, b.load().Problems, allocationFileName+":0  : allocation file is corrupt")
			wantCalls(t, b.look(), "add Service default/a", "synced")
			want := allocationFileName + ":0  : allocation file was corrupt: the agent has moved it to " + b.allocations() + corruptSuffix
			wantProblems(t, b.path, b.problems.list(), want)
			if got := b.read(b.allocations() + corruptSuffix); got != text {
				t.Errorf("what was moved aside is %q", got)
			}
			if got := b.read(b.allocations()); !strings.Contains(got, `"default/a"`) {
				t.Errorf("the new file is %q", got)
			}
			b.must(os.Remove(b.allocations() + corruptSuffix))
			wantCalls(t, b.look())
			wantProblems(t, b.path, b.problems.list())
		})
	}
}

func TestAllocationFileOfAnotherVersion(t *testing.T) {
	const text = `{"version":3,"shape":"unknown"}`
	b := newBench(newDirectory(t, allocationFileName, text, "a.yaml", serviceYAML("a", onePort)))
	wantCalls(t, b.look(), "add Service default/a", "synced")
	wantProblems(t, b.path, b.problems.list(), allocationFileName+":0  : allocation file is of version 3, not 1 or 2")
	if got := b.read(b.allocations()); got != text {
		t.Errorf("the file was overwritten with %q", got)
	}
}

func TestAllocationFileThatCannotBeWritten(t *testing.T) {
	d := newDirectory(t, "a.yaml", serviceYAML("a", onePort))
	opts := d.options()
	opts.AllocationFile = filepath.Join(d.path, "missing", "file.json")
	b := newBenchWith(d, opts)
	wantCalls(t, b.look(), "add Service default/a", "synced")
	wantProblems(t, b.path, b.problems.list(), "missing/file.json:0  : allocation file can't be locked, allocations are not kept")
	want := given(b.services, "a")
	b.must(os.Mkdir(filepath.Join(d.path, "missing"), 0o755))
	wantCalls(t, b.look())
	wantProblems(t, b.path, b.problems.list())
	wantGiven(t, b, want...)
	if got := b.read(opts.AllocationFile); !strings.Contains(got, "default/a") {
		t.Errorf("the file is %q, want it to be written once that is possible", got)
	}
}

func TestAnotherAgentsChangesAreFollowed(t *testing.T) {
	d := newDirectory(t, "a.yaml", serviceYAML("a", onePort))
	b := newBenchWith(d, tight(d))
	b.look()
	other := map[string]string{"10.0.0.1": "10.0.0.2", "10.0.0.2": "10.0.0.1"}[b.service("default/a").Spec.ClusterIP]
	entries := `{"version":1,"services":{"default/a":{"clusterIPs":["` + other + `"]}}}`

	d.write(allocationFileName, entries)
	wantCalls(t, b.look(), "update Service default/a")
	wantGiven(t, b, "a "+other)

	// The file gives everything to Services that are unknown here: a loses its port until they are gone.
	d.write(allocationFileName, `{"version":1,"services":{"default/x":{"clusterIPs":["10.0.0.1"]},"default/y":{"clusterIPs":["10.0.0.2"]}}}`)
	wantCalls(t, b.look(), "delete Service default/a")
	wantProblems(t, d.path, b.problems.list(), "a.yaml:1 Service default/a spec.clusterIPs[0]: Invalid value: null: nothing is left")
	b.state.allocator.now = func() time.Time { return time.Now().Add(strayAge) }
	wantCalls(t, b.look(), "add Service default/a")
	wantProblems(t, d.path, b.problems.list())

	// A file that is lost is written again.
	want := d.read(d.allocations())
	d.remove(allocationFileName)
	wantCalls(t, b.look())
	if diff := cmp.Diff(want, d.read(d.allocations())); diff != "" {
		t.Errorf("the file (-before +after):\n%s", diff)
	}
}

func TestStraysGiveWay(t *testing.T) {
	const strays = `{"version":1,"services":{"default/gone":{"clusterIPs":["10.0.0.1"]}}}`
	d := newDirectory(t, allocationFileName, strays, "a.yaml", clusterIPYAML("a", "10.0.0.1"))
	b := newBenchWith(d, tight(d))
	b.look()
	wantGiven(t, b, "a 10.0.0.1")

	// But not while some file may hold that very Service.
	d = newDirectory(t, allocationFileName, strays, "a.yaml", clusterIPYAML("a", "10.0.0.1"), "b.yaml", "[")
	b = newBenchWith(d, tight(d))
	b.look()
	wantGiven(t, b, "a -")
	d.write("b.yaml", serviceYAML("gone", onePort))
	b.look()
	wantGiven(t, b, "a -", "gone 10.0.0.1")
}

// TestAgentsAgree has several agents read one directory, each at its own time and with a view of
// its own of what came first.
func TestAgentsAgree(t *testing.T) {
	d := newDirectory(t)
	const agents, services = 4, 30
	opts := d.options()
	opts.ServiceCIDRs = prefixes("10.0.0.0/26")
	done := make(chan *bench)
	for range agents {
		b := newBenchWith(d, opts)
		go func() {
			for range 40 {
				found, err := b.state.tree.scan(look{all: true}, func(string, fs.FileInfo) {})
				b.state.apply(t.Context(), found, err)
			}
			done <- b
		}()
	}
	for n := range services {
		d.write(fmt.Sprintf("%02d.yaml", (n*7)%services), serviceYAML(fmt.Sprintf("s%d", n), "type: NodePort\n"+onePort))
	}
	var all []*bench
	for range agents {
		all = append(all, <-done)
	}
	for range 2 { // what the last to write decided reaches the first in the second round
		for _, b := range all {
			b.look()
		}
	}
	for i, b := range all {
		if diff := cmp.Diff(all[0].state.services.objects, b.state.services.objects, cmp.AllowUnexported(objectKey{})); diff != "" {
			t.Errorf("agents 0 and %d disagree:\n%s", i, diff)
		}
		wantProblems(t, d.path, b.problems.list())
		if got := len(b.state.services.objects); got != services {
			t.Errorf("agent %d has %d services, want %d", i, got, services)
		}
	}
	if _, err := os.Stat(atomicfile.Temp(d.allocations())); err == nil {
		t.Error("a temporary file is left behind")
	}
}

func TestLockIsExclusive(t *testing.T) {
	d := newDirectory(t)
	one, two := &store{path: d.allocations()}, &store{path: d.allocations()}
	unlock, err := one.lock(t.Context())
	d.must(err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := two.lock(ctx); err == nil || !strings.Contains(err.Error(), "held by another process") {
		t.Errorf("a second lock: %v, want it refused", err)
	}
	unlock()
	unlock, err = two.lock(t.Context())
	d.must(err)
	unlock()
}

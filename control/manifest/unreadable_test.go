// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestUnreadableOverRestart: what can't be read keeps all that it held over restarts, as it says:
// Services with endpoints and allocations, and the copies for the next restart.
func TestUnreadableOverRestart(t *testing.T) {
	for name, test := range map[string]struct {
		away    func(m *mount, target string) string // what can't be read
		problem string
	}{
		"a sub-directory": {func(_ *mount, target string) string { return target }, "sub:0  : can't be read; what it held stays in force"},
		"a file": {func(m *mount, _ string) string {
			file := filepath.Join(t.TempDir(), "file")
			m.must(os.Rename(filepath.Join(m.path, fileOf(1)), file))
			m.must(os.Symlink(file, filepath.Join(m.path, fileOf(1))))
			return file
		}, fileOf(1) + ":0  : can't be read; what it held stays in force"},
		"the directory": {func(m *mount, _ string) string { return m.path }, ".:0  : the directory can't be read; everything stays in force"},
	} {
		for _, elsewhere := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				m := newMount(t, 3)
				if elsewhere {
					m.allocations = filepath.Join(t.TempDir(), "allocations.json")
				}
				m.write("sub/mixed.yaml", serviceOf(4)+"---\n"+serviceYAML("bad", "ports: [{port: 0, targetPort: 1}]"))
				target := filepath.Join(t.TempDir(), "target")
				m.must(os.Rename(filepath.Join(m.path, "sub"), target))
				m.must(os.Symlink(target, filepath.Join(m.path, "sub")))
				away := test.away(m, target)
				want := inForce(m.start())

				m.must(os.Rename(away, away+"-away"))
				for range 3 {
					b := m.start()
					wantInForce(t, b, want)
					wantProblem(t, b, test.problem)
					b.state.allocator.now = func() time.Time { return time.Now().Add(2 * strayAge) }
					b.look()
					b.look()
					wantInForce(t, b, want)
				}
				m.must(os.Rename(away+"-away", away))
				b := m.start()
				wantInForce(t, b, want)
				wantProblems(t, b.path, b.problems.list(), "sub/mixed.yaml:3 Service default/bad spec.ports[0].port: Invalid value: 0")
			})
		}
	}
}

// wantProblem looks for one problem among others.
func wantProblem(t *testing.T, b *bench, want string) {
	t.Helper()
	var lines []string
	for _, p := range b.problems.list() {
		file, _ := filepath.Rel(b.path, p.File)
		line := file + ":0  : " + p.Message
		if strings.HasPrefix(line, want) {
			return
		}
		lines = append(lines, line)
	}
	t.Errorf("no problem begins with %q:\n%s", want, strings.Join(lines, "\n"))
}

// While the agent runs: what can't be read changes nothing, and when it can be, it is followed.
func TestUnreadableComesBackChanged(t *testing.T) {
	m := newMount(t, 3)
	target := filepath.Join(t.TempDir(), "target")
	m.must(os.Rename(filepath.Join(m.path, "sub"), target))
	m.must(os.Symlink(target, filepath.Join(m.path, "sub")))
	running := m.start()
	want := inForce(running)
	m.must(os.Rename(target, target+"-away"))
	running.look()
	wantInForce(t, running, want)
	restarted := m.start() // from the copies, which the running one has kept
	wantInForce(t, restarted, want)

	m.must(os.Rename(target+"-away", target))
	m.must(os.Remove(filepath.Join(target, "s01.yaml")))
	for _, b := range []*bench{running, restarted} {
		b.look()
		wantInForce(t, b, []string{want[0], want[2]})
		wantProblems(t, b.path, b.problems.list())
	}
}

// TestSourceStartsBlind: a source whose directory can't be read at the start delivers what the last
// one knew, and follows the directory when it is there.
func TestSourceStartsBlind(t *testing.T) {
	d := newDirectory(t, "a.yaml", webYAML)
	opts := d.options()
	opts.CacheDir = filepath.Join(t.TempDir(), "cache")
	b := newBenchWith(d, opts)
	b.look()
	d.must(os.Rename(d.path, d.path+"-away"))
	_, sink := runSourceWith(d, opts, patient)
	eventually(t, "synced", sink.isSynced)
	wantCalls(t, sink.drain(), "add Service default/web", "synced")
	d.must(os.Rename(d.path+"-away", d.path))
	d.write("b.yaml", dnsYAML)
	eventually(t, "a new file", func() bool { return sink.service("default/dns") != nil })
	wantCalls(t, sink.drain(), "add Service default/dns")
}

// An agent that is given another directory does not serve what the one before held.
func TestCopiesOfOtherDirectoriesAreNotTaken(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "cache")
	start := func(d directory) *bench {
		opts := d.options()
		opts.CacheDir = cache
		b := newBenchWith(d, opts)
		b.look()
		return b
	}
	start(newDirectory(t, "a.yaml", webYAML))
	b := start(newDirectory(t, "a.yaml", dnsYAML))
	if b.service("default/web") != nil || b.service("default/dns") == nil {
		t.Errorf("in force: %q", namesOf(b))
	}
}

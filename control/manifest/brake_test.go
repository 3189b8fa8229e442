// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
)

// mount is a directory of manifests that agents read one after the other, as restarts do.
type mount struct {
	directory
	cache       string
	allocations string
	fraction    float64
}

// newMount has some Services with a Pod each, in a file each; of every other Service the cluster IP
// is allocated. The allocations are beside the manifests, as by default.
func newMount(t *testing.T, services int) *mount {
	m := &mount{directory: newDirectory(t), cache: filepath.Join(t.TempDir(), "cache"), fraction: 0.5}
	for n := range services {
		m.write(fileOf(n), serviceOf(n))
	}
	return m
}

func fileOf(n int) string { return fmt.Sprintf("sub/s%02d.yaml", n) }

func serviceOf(n int) string {
	ip := `""`
	if n%2 == 0 {
		ip = fmt.Sprintf("10.96.1.%d", n)
	}
	return serviceYAML(fmt.Sprintf("s%02d", n), fmt.Sprintf("type: NodePort\nclusterIP: %s\nselector: {app: s%02d}\nports: [{port: 80}]", ip, n)) +
		fmt.Sprintf("---\napiVersion: v1\nkind: Pod\nmetadata: {name: p%02d, labels: {app: s%02d}}\nstatus: {podIP: 10.0.0.%d}\n", n, n, n+1)
}

// agent makes the next agent, which has not looked yet.
func (m *mount) agent() *bench {
	opts := m.options()
	opts.CacheDir, opts.Brake, opts.AllocationFile = m.cache, &Brake{m.fraction}, m.allocations
	return newBenchWith(m.directory, opts)
}

// start makes an agent and has it look.
func (m *mount) start() *bench {
	m.t.Helper()
	b := m.agent()
	b.look()
	return b
}

// clear empties the directory, which goes on to exist: that is a mount point without its mount.
func (m *mount) clear() {
	m.t.Helper()
	entries, err := os.ReadDir(m.path)
	m.must(err)
	for _, e := range entries {
		m.remove(e.Name())
	}
}

// inForce describes all that the sink got: what a Service has, and its endpoints.
func inForce(b *bench) []string {
	var lines []string
	for _, line := range given(b.services, namesOf(b)...) {
		name, _, _ := strings.Cut(line, " ")
		endpoints := 0
		for _, s := range b.slices {
			if strings.HasPrefix(s.Name, name+"-") {
				endpoints += len(s.Endpoints)
			}
		}
		lines = append(lines, fmt.Sprintf("%s endpoints/%d", line, endpoints))
	}
	return lines
}

func namesOf(b *bench) (names []string) {
	for name := range b.services {
		names = append(names, strings.TrimPrefix(name, "default/"))
	}
	slices.Sort(names)
	return names
}

func wantInForce(t *testing.T, b *bench, want []string) {
	t.Helper()
	if got := inForce(b); !slices.Equal(got, want) {
		t.Errorf("in force:\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func wantHeld(t *testing.T, b *bench, count int) {
	t.Helper()
	held := b.state.held.services()
	if len(held) != count {
		t.Errorf("%d Services are held, want %d: %q", len(held), count, held)
	}
	reported := slices.ContainsFunc(b.problems.list(), func(p status.Problem) bool {
		return p.File == b.path && strings.HasPrefix(p.Message, fmt.Sprintf("%d Services are gone from the directory all at once", count))
	})
	if reported != (count > 0) {
		t.Errorf("%d Services are held, reported: %v", count, reported)
	}
	if _, err := os.Stat(HeldFile(string(b.state.held.kept))); (err == nil) != (count > 0) {
		t.Errorf("%d Services are held; their file: %v", count, err)
	}
}

// TestBrakeHolds: what is gone at one look stays with all that belongs to it, over restarts, too,
// and until it is back.
func TestBrakeHolds(t *testing.T) {
	for name, vanish := range map[string]func(*mount){
		"empty mount point": (*mount).clear,
		"part of it":        func(m *mount) { m.remove("sub"); m.write("s00.yaml", serviceOf(0)) },
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, 20)
			want := inForce(m.start())
			running := m.start()
			vanish(m)
			if calls := running.look(); len(calls) > 0 {
				t.Errorf("the sink got %q", calls)
			}
			count := len(running.state.held.services())
			if count < 19 {
				t.Errorf("only %d Services are held", count)
			}
			wantHeld(t, running, count)
			for range 2 {
				again := m.start()
				wantInForce(t, again, want)
				wantHeld(t, again, count)
				again.look()
				wantInForce(t, again, want)
			}
			m.remove("s00.yaml")
			for n := range 20 {
				m.write(fileOf(n), serviceOf(n))
			}
			for _, b := range []*bench{running, m.start()} {
				b.look()
				wantInForce(t, b, want)
				wantHeld(t, b, 0)
				wantProblems(t, b.path, b.problems.list())
			}
		})
	}
}

// What vanishes while no agent runs is held as well.
func TestBrakeHoldsAtTheStart(t *testing.T) {
	m := newMount(t, 20)
	want := inForce(m.start())
	m.clear()
	for range 2 {
		b := m.start()
		wantInForce(t, b, want)
		wantHeld(t, b, 20)
	}
}

// A file that is cut off where a document ends is no better than files that are gone.
func TestBrakeHoldsWhatATruncatedFileLacks(t *testing.T) {
	var all strings.Builder
	for n := range 20 {
		all.WriteString(serviceOf(n) + "---\n")
	}
	m := newMount(t, 0)
	m.write("all.yaml", all.String())
	b := m.start()
	want := inForce(b)
	m.write("all.yaml", serviceOf(0)+"---\n"+serviceOf(1))
	for range 2 {
		b.look()
		wantInForce(t, b, want)
		wantHeld(t, b, 18)
		b = m.start()
	}
	m.write("all.yaml", all.String())
	b.look()
	wantHeld(t, b, 0)
}

// TestBrakeLetsGo: the brake lets deletions through that look intended.
func TestBrakeLetsGo(t *testing.T) {
	for name, test := range map[string]struct {
		services, gone int
		fraction       float64
		held           bool
	}{
		"nothing":                {0, 0, 0.5, false},
		"a few, though all":      {10, 10, 0.5, false},
		"more than half":         {21, 11, 0.5, true},
		"half":                   {22, 11, 0.5, false},
		"a few of many":          {40, 10, 0, false},
		"more than a few":        {40, 11, 0, true},
		"all, without brake":     {30, 30, 1, false},
		"more than the fraction": {40, 13, 0.3, true},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMount(t, test.services)
			m.fraction = test.fraction
			running := m.start()
			for n := range test.gone {
				m.remove(fileOf(n))
			}
			held := 0
			if test.held {
				held = test.gone
			}
			running.look()
			for _, b := range []*bench{running, m.start()} {
				wantHeld(t, b, held)
				if got, want := len(b.services), test.services-test.gone+held; got != want {
					t.Errorf("%d Services, want %d", got, want)
				}
			}
		})
	}
}

// Single deletions pass while something is held, and so does what is done one by one.
func TestBrakeIsOfOneLook(t *testing.T) {
	m := newMount(t, 30)
	b := m.start()
	for n := range 20 {
		m.remove(fileOf(n))
	}
	b.look()
	wantHeld(t, b, 20)
	for n := 20; n < 30; n++ {
		m.remove(fileOf(n))
		b.look()
	}
	wantHeld(t, b, 20)
	if got := len(b.services); got != 20 {
		t.Errorf("%d Services, want the 20 that are held", got)
	}
	// New ones make what is held a small part, which is no reason to let go at the next start.
	for n := 30; n < 90; n++ {
		m.write(fileOf(n), serviceOf(n))
	}
	for _, b := range []*bench{b, m.start()} {
		b.look()
		wantHeld(t, b, 20)
		if got := len(b.services); got != 80 {
			t.Errorf("%d Services, want 80", got)
		}
	}
}

func TestRelease(t *testing.T) {
	m := newMount(t, 20)
	b := m.start()
	m.clear()
	b.look()
	m.write("new.yaml", serviceYAML("new", onePort))
	b.look()
	wantHeld(t, b, 20)
	m.must(Release(m.cache))
	b.look()
	for _, b := range []*bench{b, m.start()} {
		wantHeld(t, b, 0)
		if got := namesOf(b); !slices.Equal(got, []string{"new"}) {
			t.Errorf("in force: %q", got)
		}
		wantProblems(t, b.path, b.problems.list())
	}
	if text := m.read(m.directory.allocations()); strings.Contains(text, "default/s") {
		t.Errorf("what was released keeps its allocations:\n%s", text)
	}
	m.must(Release(m.cache)) // once more is no harm
}

// An agent that is started without a brake lets go.
func TestBrakeIsTakenOff(t *testing.T) {
	m := newMount(t, 20)
	b := m.start()
	m.clear()
	b.look()
	m.fraction = 1
	b = m.start()
	wantHeld(t, b, 0)
	if len(b.services) > 0 {
		t.Errorf("%q are in force", namesOf(b))
	}
}

// TestReleaseOfARunningSource: it lets go by itself.
func TestReleaseOfARunningSource(t *testing.T) {
	m := newMount(t, 20)
	opts := m.options()
	opts.CacheDir, opts.Brake = m.cache, &Brake{0.5}
	s, sink := runSourceWith(m.directory, opts, patient)
	eventually(t, "all Services", func() bool { return sink.count() == 20 })
	m.must(os.Rename(filepath.Join(m.path, "sub"), filepath.Join(m.path, ".sub")))
	eventually(t, "the brake", func() bool { return len(s.Held()) == 20 })
	m.must(Release(m.cache))
	eventually(t, "the release", func() bool { return len(s.Held()) == 0 && sink.count() == 0 })
}

// TestHeldGivesWay: a Service that asks for what a held one has gets it, at the same look or later,
// and the held one goes.
func TestHeldGivesWay(t *testing.T) {
	const external = "externalIPs: [192.0.2.1]\nports: [{port: 80}]"
	balanced := serviceYAML("old", "type: LoadBalancer\nloadBalancerIP: 192.0.2.2\nports: [{port: 80, nodePort: 30500}]")
	for name, test := range map[string]struct {
		old, heir string // old is held, and has no other frontends than heir asks for
	}{
		"cluster IP":           {serviceYAML("old", "clusterIP: 10.96.2.1\nports: [{port: 80}]"), serviceYAML("heir", "clusterIP: 10.96.2.1\nports: [{port: 81}]")},
		"node port":            {balanced, serviceYAML("heir", "type: NodePort\nports: [{port: 90, nodePort: 30500}]")},
		"external IP":          {serviceYAML("old", external), serviceYAML("heir", external)},
		"load balancer's":      {balanced, serviceYAML("heir", "externalIPs: [192.0.2.2]\nports: [{port: 80}]")},
		"the object itself":    {balanced, serviceYAML("old", "ports: [{port: 99}]")},
		"allocated, by chance": {serviceYAML("old", onePort), ""},
	} {
		for _, atOnce := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, at once: %v", name, atOnce), func(t *testing.T) {
				m := newMount(t, 20)
				m.write("old.yaml", test.old)
				b := m.start()
				heir := test.heir
				if heir == "" {
					heir = clusterIPYAML("heir", b.service("default/old").Spec.ClusterIP)
				}
				m.clear()
				if !atOnce {
					b.look()
					wantHeld(t, b, 21)
				}
				m.write("heir.yaml", heir)
				b.look()
				for _, b := range []*bench{b, m.start()} {
					wantHeld(t, b, 20)
					name := "heir"
					if strings.Contains(heir, "name: old") {
						name = "old"
					}
					if b.service("default/"+name) == nil || name == "heir" && b.service("default/old") != nil {
						t.Errorf("in force: %q", namesOf(b))
					}
				}
			})
		}
	}
}

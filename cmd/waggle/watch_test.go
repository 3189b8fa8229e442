// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
)

// watched is a command that goes on.
type watched struct {
	t        *testing.T
	mu       sync.Mutex
	out, err bytes.Buffer
	shown    int // bytes of out that expect has seen
	ended    chan error
}

type locked struct {
	w      *watched
	buffer *bytes.Buffer
}

func (l locked) Write(p []byte) (int, error) {
	l.w.mu.Lock()
	defer l.w.mu.Unlock()
	return l.buffer.Write(p)
}

func (l *loaded) watch(command string) *watched {
	w := &watched{t: l.t, ended: make(chan error, 1)}
	root := newRoot()
	root.SetOut(locked{w, &w.out})
	root.SetErr(locked{w, &w.err})
	root.SetArgs(append(strings.Fields(command), "--pin-dir", l.pinDir))
	go func() { w.ended <- root.Execute() }()
	return w
}

// expect waits for so many lines as are wanted, and compares what came since the last call.
func (w *watched) expect(want string) {
	w.t.Helper()
	var got []string
	await.Until(w.t, func() (string, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		new := w.out.String()[w.shown:]
		got = tidy(new)
		done := len(new) > 0 && len(got) >= len(tidy(want))
		if done {
			w.shown = w.out.Len()
		}
		select {
		case err := <-w.ended:
			return fmt.Sprintf("the command has ended with error %v, having printed\n%s", err, new), false
		default:
			return fmt.Sprintf("it has printed\n%s\nwant\n%s", new, want), done
		}
	})
	if diff := cmp.Diff(tidy(want), got); diff != "" {
		w.t.Errorf("(-want +got):\n%s", diff)
	}
}

// expectLast waits for a last line; first is the first one of all, if it is given.
func (w *watched) expectLast(first, last string) {
	w.t.Helper()
	await.Until(w.t, func() (string, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		lines := tidy(w.out.String())
		w.shown = w.out.Len()
		return fmt.Sprintf("it has printed\n%s\nwant last\n%s", w.out.String(), last),
			(first == "" || lines[0] == tidy(first)[0]) && lines[len(lines)-1] == tidy(last)[0]
	})
}

// wait returns what the command ends with.
func (w *watched) wait() (err error) {
	w.t.Helper()
	await.Until(w.t, func() (string, bool) {
		select {
		case err = <-w.ended:
			return "", true
		default:
			return "the command does not end", false
		}
	})
	return err
}

// interrupt ends it as a user does.
func (w *watched) interrupt() {
	w.t.Helper()
	if err := unix.Kill(unix.Getpid(), unix.SIGINT); err != nil {
		w.t.Fatal(err)
	}
	if err := w.wait(); err != nil {
		w.t.Errorf("interrupted, it ends with %v", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if rest := w.out.String()[w.shown:]; rest != "" {
		w.t.Errorf("besides, it has printed\n%s", rest)
	}
}

func (w *watched) stderr() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.err.String()
}

// clearFlow removes the record that putFlow has put.
func (l *loaded) clearFlow(sport uint16) {
	l.t.Helper()
	l.must(l.dp.Map("flows4").Put(uint32(sport)%64, bpf.FlowSet4{}))
}

// changeFlow changes the record that putFlow has put.
func (l *loaded) changeFlow(sport uint16, change func(tag *uint32, f *bpf.Flow)) {
	l.t.Helper()
	var set bpf.FlowSet4
	l.must(l.dp.Map("flows4").Lookup(uint32(sport)%64, &set))
	change(&set.Ways.Tag[7], &set.At[7].Flow)
	l.must(l.dp.Map("flows4").Put(uint32(sport)%64, set))
}

// TestFlowWatch: the table, then what is new, changed or gone, under the same columns. A packet more is no
// change.
func TestFlowWatch(t *testing.T) {
	l := load(t)
	l.applySome()
	l.putFlow(false, 1001, 1)
	w := l.watch("flow list -w --output-watch-events")
	w.expect(`
EVENT   PROTOCOL   SEEN      SOURCE           DESTINATION    TO SOURCE        TO DESTINATION   PATH      STATE                IDLE
ADDED   TCP        outside   192.0.2.7:1001   10.96.0.1:80   10.0.0.1:50000   10.1.0.1:8080    express   answered,confirmed   0s`)
	l.changeFlow(1001, func(_ *uint32, f *bpf.Flow) { f.LastSeen -= 1 << 20; f.Hop = 0 })
	l.putFlow(false, 1002, 1)
	w.expect(`
ADDED   TCP        outside   192.0.2.7:1002   10.96.0.1:80   10.0.0.1:50000   10.1.0.1:8080    express   answered,confirmed   0s`)
	l.changeFlow(1001, func(tag *uint32, f *bpf.Flow) { f.LastSeen += 1 << 20; *tag |= bpf.StateFinClient })
	w.expect(`
MODIFIED   TCP        outside   192.0.2.7:1001   10.96.0.1:80   10.0.0.1:50000   10.1.0.1:8080    express   answered,confirmed,fin-client   0s`)
	l.clearFlow(1002)
	w.expect(`
DELETED    TCP        outside   192.0.2.7:1002   10.96.0.1:80   10.0.0.1:50000   10.1.0.1:8080    express   answered,confirmed              0s`)
	w.interrupt()
}

// TestFlowWatchLimit: what is followed is bounded, and stays the same while it is there.
func TestFlowWatchLimit(t *testing.T) {
	l := load(t)
	for sport := range uint16(3) {
		l.putFlow(false, 1010+sport, 1)
	}
	w := l.watch("flow list --watch --limit 2 --sort source -o json --output-watch-events")
	ports := func(want ...string) {
		t.Helper()
		var got []string
		await.Until(t, func() (string, bool) {
			w.mu.Lock()
			defer w.mu.Unlock()
			got = nil
			for d := json.NewDecoder(strings.NewReader(w.out.String()[w.shown:])); ; {
				var e event[flowView]
				if err := d.Decode(&e); err != nil {
					break
				}
				got = append(got, fmt.Sprintf("%s %d", e.Type, e.Object.Src.Port()))
			}
			if len(got) < len(want) {
				return fmt.Sprintf("events %q, want %q", got, want), false
			}
			w.shown = w.out.Len()
			return "", true
		})
		if !slices.Equal(got, want) {
			t.Errorf("events %q, want %q", got, want)
		}
	}
	ports("ADDED 1010", "ADDED 1011")
	l.putFlow(false, 1000, 1) // a set before theirs, and before them by --sort
	l.changeFlow(1011, func(tag *uint32, _ *bpf.Flow) { *tag |= bpf.StateReset })
	ports("MODIFIED 1011")
	l.clearFlow(1010)
	ports("ADDED 1000", "DELETED 1010")
	if got, want := w.stderr(), "waggle: there are more than 2: the command follows others only when some of these are gone (--limit)\n"; got != want {
		t.Errorf("it warns %q, want %q", got, want)
	}
	w.interrupt()
}

func TestServiceWatch(t *testing.T) {
	l := load(t)
	name := func(namespace, name string) maps.Name {
		return maps.Name{Namespace: namespace, Name: name, Proto: unix.IPPROTO_TCP, Family: maps.IPv4}
	}
	w := l.watch("service list -n shop --watch") // prints nothing yet
	l.apply(port(name("default", "far"), []string{"ClusterIP 10.96.0.2:80"}, "10.1.0.1:8080"))
	web := port(name("shop", "web"), []string{"ClusterIP 10.96.0.1:80"})
	l.apply(web)
	// A look may come while a service is being written: it is printed once more then.
	w.expectLast(`
NAMESPACE   NAME   TYPE        CLUSTER-IP   EXTERNAL-IP   PORT(S)   ENDPOINTS`, `
shop        web    ClusterIP   10.96.0.1    <none>        80/TCP    0 (0 local)`)
	l.apply(port(web.Name, []string{"ClusterIP 10.96.0.1:80"}, "10.1.0.1:8080"))
	w.expectLast("", `
shop        web    ClusterIP   10.96.0.1    <none>        80/TCP    1 (0 local)`)
	w.interrupt()

	w = l.watch("service list -A -w -o yaml")
	await.Until(t, func() (string, bool) {
		w.mu.Lock()
		defer w.mu.Unlock()
		out := w.out.String()
		w.shown = len(out)
		return out, strings.Count(out, "---\nname: ") == 2
	})
	w.interrupt()
}

// TestWatchEnds: what can't be read ends a watch.
func TestWatchEnds(t *testing.T) {
	l := load(t)
	w := l.watch("service list -w")
	l.must(os.Remove(filepath.Join(l.pinDir, "maps", "backends")))
	if err := w.wait(); err == nil || !strings.Contains(err.Error(), "there is no "+l.pinDir+"/maps/backends") {
		t.Errorf("without a map it ends with error %v", err)
	}
}

func TestSort(t *testing.T) {
	l := load(t)
	l.applySome()
	for key, want := range map[string]string{
		"namespace": "far none web dns", "name": "dns far none web", "type": "none dns web far", "endpoints": "none far dns web",
	} {
		var list []serviceView
		l.must(json.Unmarshal([]byte(l.run("service list -o json --sort "+key)), &list))
		var got []string
		for _, s := range list {
			got = append(got, s.Name)
		}
		if got := strings.Join(got, " "); got != want {
			t.Errorf("by %s: %s, want %s", key, got, want)
		}
	}
	l.putFlow(false, 1001, 1)
	l.putFlow(false, 1000, 5)
	l.putFlow(true, 1002, 4)
	l.changeFlow(1001, func(_ *uint32, f *bpf.Flow) {
		f.LastSeen -= 1 << 20
		f.Flags = bpf.FlowTurn
		f.Proto = unix.IPPROTO_UDP
	})
	l.changeFlow(1000, func(_ *uint32, f *bpf.Flow) {
		f.LastSeen -= 1 << 19
		f.Flags, f.Dport, f.ToDport = bpf.FlowForeign, wire(443), wire(80)
	})
	for key, want := range map[string]string{
		"protocol": "1000 1002 1001", "source": "1000 1001 1002", "destination": "1001 1000 1002", "to-destination": "1000 1001 1002",
		"path": "1002 1000 1001", "idle": "1002 1000 1001", "service": "1000 1001 1002",
	} {
		for limit := range 4 {
			var list []flowView
			l.must(json.Unmarshal([]byte(l.run(fmt.Sprintf("flow list -o json --sort %s --limit %d", key, limit))), &list))
			var got []string
			for _, f := range list {
				got = append(got, fmt.Sprint(f.Src.Port()))
			}
			wanted := strings.Fields(want)
			if limit > 0 {
				wanted = wanted[:limit]
			}
			if !slices.Equal(got, wanted) {
				t.Errorf("by %s, at most %d: %s, want %s", key, limit, got, wanted)
			}
		}
	}
}

// TestListFlagErrors: a bad value is named, with those that the flag takes, before anything is read.
func TestListFlagErrors(t *testing.T) {
	for command, want := range map[string]string{
		"flow list --sort port":                 "--sort port: unknown column; one of protocol, source, destination, to-destination, path, idle, service",
		"service list --sort age":               "--sort age: unknown column; one of namespace, name, type, endpoints",
		"flow list --output-watch-events":       "--output-watch-events: only with --watch",
		"service list --output-watch-events":    "--output-watch-events: only with --watch",
		"flow list --limit -1":                  "--limit -1: a number of records, or 0 for all",
		"flow list --address x":                 "--address x: not an IP address",
		"flow list -w --sort idle -o xml":       "-o xml: unknown format; one of table, wide, json, yaml",
		"service list -w --sort namespace=name": "--sort namespace=name: unknown column; one of namespace, name, type, endpoints",
	} {
		_, err := run(t, append(strings.Fields(command), "--pin-dir=/no.such")...)
		if err == nil || err.Error() != want {
			t.Errorf("%s: error %v\nwant %s", command, err, want)
		}
	}
}

// TestSelectionIsBounded: of many objects twice the limit are held.
func TestSelectionIsBounded(t *testing.T) {
	s := selection[int]{limit: 3, order: func(a, b int) int { return b - a }}
	for i := range 1000 {
		s.add(i)
		if len(s.objects) > 5 {
			t.Fatalf("%d objects are held", len(s.objects))
		}
	}
	if got := s.all(); !slices.Equal(got, []int{999, 998, 997}) || !s.more {
		t.Errorf("got %v, more: %v", got, s.more)
	}
}

// TestWatchIsBounded: of an endless series of objects, each of which is there for one look, a watch holds those of one
// look.
func TestWatchIsBounded(t *testing.T) {
	n := 0
	w := watch[int, int]{
		out: &output{format: "table"}, limit: 10, known: map[int]int{},
		read: func(fn func(int) bool) error {
			for range 100 {
				n++
				fn(n)
			}
			return nil
		},
		id:    func(v int) int { return v },
		same:  func(a, b int) bool { return a == b },
		table: func(objects []int, _ bool) table { return table{header: []string{"N"}} },
	}
	for range 50 {
		if left, err := w.look(t.Context(), io.Discard); err != nil || !left {
			t.Fatal(left, err)
		}
		if len(w.known) != 10 {
			t.Fatalf("it follows %d objects", len(w.known))
		}
	}
}

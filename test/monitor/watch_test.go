// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

// event is one that the command prints with -o json.
type event struct {
	Event, Hook, Device, OutDevice        string
	Protocol, Service, Port, Path, Choice string
	Source, Destination                   netip.AddrPort
	ToSource, ToDestination, Backend      netip.AddrPort
	SourceTranslated, Reset               bool
	PID                                   int
	Command, TCPFlags                     string
	Length                                int
	Before, After                         []byte
	Shown                                 uint64
	Lost                                  struct{ Limited, Full map[string]uint64 }
}

// monitor is a `waggle monitor` that runs.
type monitor struct {
	t      *testing.T
	s      *setup
	cmd    *topo.Command
	stdout text
	stderr text
}

// text is what a command has written so far.
type text struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (w *text) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(p)
}

func (w *text) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// watch starts a monitor, and waits until the programs report to it.
func (s *setup) watch(t *testing.T, args ...string) *monitor {
	t.Helper()
	before := len(s.slots(t))
	m := s.launch(t, args...)
	await.Until(t, func() (string, bool) { return "no monitor: " + m.stderr.String(), len(s.slots(t)) > before })
	return m
}

// launch starts a monitor.
func (s *setup) launch(t *testing.T, args ...string) *monitor {
	t.Helper()
	m := &monitor{t: t, s: s, cmd: s.agent.Command(append([]string{"monitor", "-o", "json", "--rate", "0"}, args...)...)}
	m.cmd.Stdout, m.cmd.Stderr = &m.stdout, &m.stderr
	check(t, m.cmd.Start())
	return m
}

// end interrupts the monitor, and returns what it has shown, and its summary.
func (m *monitor) end() (events []event, summary event) {
	m.t.Helper()
	check(m.t, m.cmd.Process.Signal(syscall.SIGINT))
	return m.wait()
}

// wait waits for the end of the monitor.
func (m *monitor) wait() (events []event, summary event) {
	m.t.Helper()
	if err := m.cmd.Wait(); err != nil {
		m.t.Fatalf("waggle monitor: %v: %s", err, m.stderr.String())
	}
	for line := range strings.Lines(m.stdout.String()) {
		var e event
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			m.t.Fatalf("%v in %q", err, line)
		}
		switch e.Event {
		case "summary":
			summary = e
		case "lost":
		default:
			events = append(events, e)
		}
	}
	if summary.Event == "" || summary.Shown != uint64(len(events)) {
		m.t.Errorf("%d events, and the summary %+v", len(events), summary)
	}
	return events, summary
}

// slots are the leases in force.
func (s *setup) slots(t *testing.T) (slots []uint32) {
	t.Helper()
	m := s.pinned(t, "watch_slots")
	defer m.Close()
	for slot := range m.MaxEntries() {
		var w bpf.Watch
		check(t, m.Lookup(slot, &w))
		if w.Until != 0 {
			slots = append(slots, slot)
		}
	}
	return slots
}

// word is what the programs read.
func (s *setup) word(t *testing.T) (word uint64) {
	t.Helper()
	m := s.pinned(t, "watching")
	defer m.Close()
	check(t, m.Lookup(uint32(0), &word))
	return word
}

// of are the events of a kind.
func of(events []event, kind string) (out []event) {
	for _, e := range events {
		if e.Event == kind {
			out = append(out, e)
		}
	}
	return out
}

// kinds are the events in their order, for messages.
func kinds(events []event) string {
	var out []string
	for _, e := range events {
		out = append(out, e.Event+"@"+e.Hook)
	}
	return strings.Join(out, " ")
}

// one is the only event of a kind.
func one(t *testing.T, events []event, kind string) event {
	t.Helper()
	found := of(events, kind)
	if len(found) != 1 {
		t.Fatalf("%d events %s among %s, want 1", len(found), kind, kinds(events))
	}
	return found[0]
}

// echo opens a connection, sends something over it, and closes it.
func (s *setup) echo(t *testing.T, to netip.AddrPort) topo.Reply {
	t.Helper()
	reply := s.laptop.Echo(topo.Request{To: to, Size: 100})
	check(t, reply.Error())
	return reply
}

// settled waits until the closing packets of a connection are through.
func (s *setup) settled(t *testing.T, closed uint64) {
	t.Helper()
	s.counted(t, "flow-closed", closed)
	time.Sleep(10 * time.Millisecond) // the last ACK
}

// unanswered connects to where the SYN has a verdict, and no answer. On a busy machine the SYN may still be under way when
// the client gives up: it waits until the datapath has counted it.
func (s *setup) unanswered(t *testing.T, to netip.AddrPort, verdict string) {
	t.Helper()
	before, err := s.agent.Counters()
	check(t, err)
	s.laptop.Connect(topo.Request{To: to, Timeout: 300e6})
	s.counted(t, verdict, sum(before, verdict)+1)
}

// counted waits until a verdict has been counted so many times.
func (s *setup) counted(t *testing.T, verdict string, want uint64) {
	t.Helper()
	await.Until(t, func() (string, bool) {
		c, err := s.agent.Counters()
		check(t, err)
		return fmt.Sprintf("%s: %d, want %d", verdict, sum(c, verdict), want), sum(c, verdict) >= want
	})
}

func sum(counters map[string]uint64, verdict string) (n uint64) {
	for k, v := range counters {
		if strings.HasSuffix(k, "/"+verdict) {
			n += v
		}
	}
	return n
}

// expect compares events, but for their times.
func expect(t *testing.T, got, want event) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Errorf("the event is not as wanted (-want +got):\n%s", diff)
	}
}

// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// flood opens many flows to the service `remote`, from two clients at one time, whose packets come in by different
// processors where there are two. It returns how many the datapath says were opened.
func (s *setup) flood(t *testing.T, each uint32) uint64 {
	t.Helper()
	before, err := s.agent.Counters()
	check(t, err)
	node, err := s.node.MAC("eth0")
	check(t, err)
	var group sync.WaitGroup
	for i, from := range []*topo.Host{s.Laptop, s.Nodes[1].Host} {
		injector, err := s.Link.Injector(s.node.BridgePort(), synTemplate(t, from, node, s.node.IP4))
		check(t, err)
		t.Cleanup(func() { injector.Close() })
		group.Go(func() {
			if err := injector.SendBy(i, each); err != nil {
				t.Errorf("host %d: %v", i, err)
			}
		})
	}
	group.Wait()
	var after cluster.Counters
	await.Until(t, func() (string, bool) { // frames that are under way
		last := after
		time.Sleep(100 * time.Millisecond)
		after, err = s.agent.Counters()
		check(t, err)
		return "still counting", last != nil && sum(last, "flow-opened") == sum(after, "flow-opened")
	})
	return sum(after.Since(before), "flow-opened")
}

// stop stops the process, with all its threads, until it gets SIGCONT.
func (m *monitor) stop() {
	m.t.Helper()
	check(m.t, m.cmd.Process.Signal(syscall.SIGSTOP))
	check(m.t, unix.Waitid(unix.P_PID, m.cmd.Process.Pid, nil, unix.WSTOPPED|unix.WNOWAIT, nil))
}

// overflow floods until the ring of the only monitor, which is stopped, is full: how many of a flood's frames arrive
// depends on when the kernel runs what receives them. The programs report for as long as it takes: the lease is put
// off, and then as it was, since the monitor would take another for another monitor's.
func (s *setup) overflow(t *testing.T, each uint32) (opened uint64) {
	t.Helper()
	slots, meters, slot := s.pinned(t, "watch_slots"), s.pinned(t, "watch_meters"), s.slots(t)[0]
	defer slots.Close()
	defer meters.Close()
	var w bpf.Watch
	check(t, slots.Lookup(slot, &w))
	until := w.Until
	w.Until += uint64(time.Hour)
	check(t, slots.Put(slot, w))
	await.Until(t, func() (string, bool) {
		opened += s.flood(t, each)
		var m bpf.WatchMeter
		check(t, meters.Lookup(slot, &m))
		return "the ring is not full", m.Full[bpf.VerdictFlowOpened] > 0
	})
	w.Until = until
	check(t, slots.Put(slot, w))
	return opened
}

// pinned opens one of the datapath's maps. The caller closes it.
func (s *setup) pinned(t *testing.T, name string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(s.agent.PinDir, "maps", name), nil)
	check(t, err)
	return m
}

// processors says on how many the XDP program has opened flows.
func (s *setup) processors(t *testing.T) (n int) {
	t.Helper()
	m := s.pinned(t, "counters")
	defer m.Close()
	var counters []bpf.Counter
	check(t, m.Lookup(uint32(bpf.HookXDP)*uint32(bpf.VerdictCount)+uint32(bpf.VerdictFlowOpened), &counters))
	for _, c := range counters {
		if c.Packets > 0 {
			n++
		}
	}
	return n
}

// synTemplate is a SYN from a host to the NodePort of `remote`, from any port.
func synTemplate(t *testing.T, from *topo.Host, node []byte, to interface{ As4() [4]byte }) topo.Template {
	t.Helper()
	mac, err := from.MAC("eth0")
	check(t, err)
	src, dst := from.IP4.As4(), to.As4()
	frame := append(append(append([]byte{}, node...), mac...), 8, 0,
		0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, src[0], src[1], src[2], src[3], dst[0], dst[1], dst[2], dst[3],
		0, 0, 30001>>8, 30001&0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0)
	for i := 14; i < 34; i += 2 {
		addTo(frame[24:], frame[i], frame[i+1])
	}
	frame[24], frame[25] = ^frame[24], ^frame[25]
	return topo.Template{Bytes: frame, Random: []topo.Random{{At: []int{34}}}}
}

// addTo adds to a sum in ones' complement (RFC 1071).
func addTo(sum []byte, high, low byte) {
	n := uint32(sum[0])<<8 + uint32(sum[1]) + uint32(high)<<8 + uint32(low)
	n = n>>16 + n&0xffff
	sum[0], sum[1] = byte(n>>8), byte(n)
}

// TestLossesAreCounted: of what the datapath says that it opened, each flow is shown or said to be lost. The monitor is
// stopped for a moment, so that its ring is full.
func TestLossesAreCounted(t *testing.T) {
	s := newSetup(t)
	for _, c := range []struct {
		name  string
		flows uint32
		stop  bool
		rate  string
	}{{"all are shown", 2000, false, "0"}, {"the ring is full", 200000, true, "0"}, {"the bucket is empty", 20000, false, "100"}} {
		t.Run(c.name, func(t *testing.T) {
			m := s.watch(t, "--verdict", "flow-opened", "--rate", c.rate)
			var opened uint64
			if c.stop {
				m.stop()
				opened = s.overflow(t, c.flows)
				check(t, m.cmd.Process.Signal(syscall.SIGCONT))
				await.Until(t, func() (string, bool) {
					return "what is lost is not said before the end", strings.Contains(m.stdout.String(), `"event":"lost"`)
				})
			} else {
				opened = s.flood(t, c.flows)
			}
			events, summary := m.end()
			shown, full, limited := uint64(len(events)), summary.Lost.Full["flow-opened"], summary.Lost.Limited["flow-opened"]
			t.Logf("%d opened: %d shown, %d lost by the full ring, %d by the bucket", opened, shown, full, limited)
			if opened != shown+full+limited || opened == 0 {
				t.Errorf("%d flows were opened; %d are shown, %d lost by the full ring, %d by the bucket", opened, shown, full, limited)
			}
			if c.stop != (full > 0) || (c.rate != "0") != (limited > 0) {
				t.Errorf("%d lost by the full ring, %d by the bucket", full, limited)
			}
			if c.rate != "0" && shown > 100*10 { // a bucket of a second's, and what comes while the flood lasts
				t.Errorf("%d shown, at 100 a second", shown)
			}
		})
	}
	if used, have := s.processors(t), runtime.NumCPU(); used < min(have, 2) {
		t.Errorf("all flows were opened on %d of %d processors: nothing is shown about two at one time", used, have)
	}
}

// TestKilled: the programs report to a killed monitor no longer than its lease lasts, and its slot is used again.
func TestKilled(t *testing.T) {
	s := newSetup(t)
	m := s.watch(t, "--packets", "--service", "default/remote")
	slots := s.slots(t)
	check(t, s.agent.Stop()) // which would remove what is left
	check(t, m.cmd.Process.Kill())
	_ = m.cmd.Wait()
	if s.word(t) == 0 {
		t.Error("the word is clear while the lease is in force")
	}
	await.Until(t, func() (string, bool) {
		s.echo(t, at(s.node.IP4, 30001)) // a packet's program clears it
		return "the word is not cleared", s.word(t) == 0
	})
	m = s.watchAgain(t)
	if again := s.slots(t); len(again) != 1 || len(slots) != 1 {
		t.Errorf("slots %v before, %v after", slots, again)
	}
	if n := s.watchedIDs(t); n != 0 {
		t.Errorf("%d ids are left by the one that was killed", n)
	}
	s.echo(t, at(s.node.IP4, 30001))
	events, _ := m.end()
	if len(of(events, "flow-opened")) != 1 {
		t.Errorf("events: %s", kinds(events))
	}
}

// TestInterruptedAtOnce: a signal that comes while the monitor is still taking its lease ends it in good order.
func TestInterruptedAtOnce(t *testing.T) {
	s := newSetup(t)
	lease, err := os.Open(filepath.Join(s.agent.PinDir, "maps")) // watchers lock it while they change slots
	check(t, err)
	defer lease.Close()
	check(t, unix.Flock(int(lease.Fd()), unix.LOCK_EX))
	m := s.launch(t)
	waits := fmt.Sprintf("-> FLOCK  ADVISORY  WRITE %d ", m.cmd.Process.Pid)
	await.Until(t, func() (string, bool) {
		locks, err := os.ReadFile("/proc/locks")
		check(t, err)
		return "the monitor does not wait for its lease: " + m.stderr.String(), strings.Contains(string(locks), waits)
	})
	check(t, m.cmd.Process.Signal(unix.SIGINT))
	check(t, unix.Flock(int(lease.Fd()), unix.LOCK_UN))
	if events, _ := m.wait(); len(events) > 0 {
		t.Errorf("events: %s", kinds(events))
	}
	if slots := s.slots(t); len(slots) > 0 {
		t.Errorf("slots %v are left", slots)
	}
}

// watchAgain starts a monitor where one was killed: its slot may still look taken.
func (s *setup) watchAgain(t *testing.T, args ...string) *monitor {
	t.Helper()
	m := s.launch(t, args...)
	await.Until(t, func() (string, bool) { return "no monitor: " + m.stderr.String(), s.word(t) != 0 })
	return m
}

func (s *setup) watchedIDs(t *testing.T) (n int) {
	t.Helper()
	m := s.pinned(t, "watched")
	defer m.Close()
	var key bpf.WatchedKey
	var one uint8
	for ids := m.Iterate(); ids.Next(&key, &one); {
		n++
	}
	return n
}

// TestAgentsComeAndGo: a monitor goes on while the agent is restarted, and follows a service that is made anew.
func TestAgentsComeAndGo(t *testing.T) {
	s := newSetup(t)
	m := s.watch(t, "--service", "default/remote", "--verdict", "flow-opened")
	s.echo(t, at(s.node.IP4, 30001))
	check(t, s.agent.Stop())
	s.echo(t, at(s.node.IP4, 30001))
	check(t, s.agent.Start())
	s.echo(t, at(s.node.IP4, 30001))
	check(t, s.manifests.Remove("remote.yaml"))
	await.Until(t, func() (string, bool) { return "the service is still there", !s.serves(t, "remote") })
	check(t, s.manifests.Write("remote.yaml", services[0].yaml()))
	await.Until(t, func() (string, bool) { return "the service is not there", s.serves(t, "remote") })
	await.Until(t, func() (string, bool) { return "the monitor follows no id", s.watchedIDs(t) > 0 })
	time.Sleep(2 * time.Second) // the monitor looks each second
	s.echo(t, at(s.node.IP4, 30001))
	events, _ := m.end()
	if len(events) != 4 {
		t.Errorf("%d events, want 4: %s", len(events), kinds(events))
	}
}

func (s *setup) serves(t *testing.T, name string) bool {
	t.Helper()
	out, err := s.agent.CLI("service", "list", "-o", "json")
	check(t, err)
	var all []struct {
		Name  string
		Ports []struct{ Backends []any }
	}
	check(t, json.Unmarshal([]byte(out), &all))
	for _, one := range all {
		if one.Name == name && len(one.Ports) > 1 && len(one.Ports[0].Backends) > 0 {
			return true
		}
	}
	return false
}

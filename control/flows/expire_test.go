// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
)

// The longer a walk takes, the longer the pause, but at most a minute. Walks never take more than a
// hundredth of a CPU.
func TestPauseAfterWalk(t *testing.T) {
	for _, c := range []struct {
		took   time.Duration
		waited bool
		want   time.Duration
	}{
		{time.Millisecond, false, 5 * time.Second},
		{20 * time.Millisecond, false, 20 * time.Second},
		{100 * time.Millisecond, false, time.Minute},
		{2 * time.Second, false, 200 * time.Second},
		{20 * time.Millisecond, true, 5 * time.Second},
		{100 * time.Millisecond, true, 10 * time.Second},
	} {
		if got := pauseAfter(c.took, c.waited); got != c.want {
			t.Errorf("after a walk of %v, waited for %t: a pause of %v, want %v", c.took, c.waited, got, c.want)
		}
	}
}

// A walk is omitted while the tables are empty and nothing makes records.
func TestEmptyTables(t *testing.T) {
	dp, _ := loadertest.Load(t)
	counted := 0
	e := NewExpirer(dp, func(uint32) { counted++ }, loadertest.Quiet())
	expect := func(when string, passes, confirmed uint32) {
		t.Helper()
		e.walk()
		if e.pass != passes || e.Census().IPv4.Confirmed != confirmed {
			t.Errorf("%s: %d passes and %d confirmed records, want %d and %d", when, e.pass, e.Census().IPv4.Confirmed, passes, confirmed)
		}
	}
	expect("the first walk", 1, 0)
	expect("nothing was made", 1, 0)
	countOpened(t, dp)
	expect("a flow has opened", 2, 0)
	expect("nothing was made since", 2, 0)
	added, err := dp.Adopt(bpf.Adoption{
		Family: unix.AF_INET, State: bpf.StateAnswered | bpf.StateConfirmed, Flags: bpf.FlowForeign,
		Key: bpf.Tuple{Sport: 1, Dport: 2, Proto: unix.IPPROTO_TCP, Zone: uint8(bpf.ZoneOutside)},
		To:  bpf.Tuple{Sport: 1, Dport: 3, Proto: unix.IPPROTO_TCP, Zone: uint8(bpf.ZoneOutside)},
	})
	if err != nil || !added {
		t.Fatalf("adopt a record: %t, %v", added, err)
	}
	expect("a record was adopted", 3, 1)
	expect("the table has a record", 4, 1)
	if counted != 6 {
		t.Errorf("records of connections that the kernel translates were reported %d times, want 6: each time", counted)
	}
}

// countOpened counts a flow, as the programs do on one CPU.
func countOpened(t *testing.T, dp *loader.Datapath) {
	t.Helper()
	index := uint32(bpf.HookTCPod)*uint32(bpf.VerdictCount) + uint32(bpf.VerdictFlowOpened)
	counters := make([]bpf.Counter, ebpf.MustPossibleCPU())
	counters[0].Packets = 1
	if err := dp.Map("counters").Put(index, counters); err != nil {
		t.Fatal(err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/bpf"
)

// count reads all counters.
func (n *node) count() []uint64 {
	n.t.Helper()
	now := make([]uint64, bpf.HookCount*bpf.Hook(bpf.VerdictCount))
	for i := range now {
		var perCPU []bpf.Counter
		if err := n.maps["counters"].Lookup(uint32(i), &perCPU); err != nil {
			n.t.Fatal(err)
		}
		for _, c := range perCPU {
			now[i] += c.Packets
		}
	}
	before := n.counted
	n.counted = now
	return before
}

// counts returns how the one packet since the last count was counted. It must
// be exactly one verdict, at the hook where the packet was seen.
func (n *node) counts(hook bpf.Hook) (verdict bpf.Verdict, events []bpf.Verdict) {
	n.t.Helper()
	before := n.count()
	var verdicts []bpf.Verdict
	for i, now := range n.counted {
		at, v := bpf.Hook(i)/bpf.Hook(bpf.VerdictCount), bpf.Verdict(i)%bpf.VerdictCount
		for range now - before[i] {
			if at != hook {
				n.t.Errorf("%s counted at %s, the packet was at %s",
					bpf.VerdictName(v), bpf.HookName(at), bpf.HookName(hook))
			}
			if v >= bpf.VerdictFlowOpened {
				events = append(events, v)
			} else {
				verdicts = append(verdicts, v)
			}
		}
	}
	if len(verdicts) != 1 {
		n.t.Fatalf("counted as %v, want one verdict", names(verdicts))
	}
	return verdicts[0], events
}

func equal[T any](t *testing.T, what string, want, got T) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

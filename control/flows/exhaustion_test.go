// SPDX-License-Identifier: Apache-2.0

package flows

import (
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// TestExhaustion: a shortage is reported while it lasts and for a while after. An old one is not,
// whatever else is counted.
func TestExhaustion(t *testing.T) {
	var e Exhaustion
	now := time.Now()
	look := func(wait time.Duration, xdp, tc, full uint64) (ports, flows bool) {
		t.Helper()
		now = now.Add(wait)
		troubles := e.Look([]maps.Counter{
			{Hook: bpf.HookXDP, Verdict: bpf.VerdictDropSNATExhausted, Packets: xdp},
			{Hook: bpf.HookTCIngress, Verdict: bpf.VerdictDropSNATExhausted, Packets: tc},
			{Hook: bpf.HookTCIngress, Verdict: bpf.VerdictDropFlowsFull, Packets: full},
			{Hook: bpf.HookXDP, Verdict: bpf.VerdictExpress, Packets: uint64(now.UnixNano())},
		}, now)
		return troubles[0].Err != nil, troubles[1].Err != nil
	}
	for i, step := range []struct {
		wait          time.Duration
		xdp, tc, full uint64
		ports, flows  bool
	}{
		{0, 5, 7, 9, false, false}, // an earlier agent's
		{time.Second, 5, 7, 9, false, false},
		{time.Second, 5, 8, 9, true, false},
		{time.Second, 5, 8, 10, true, true},
		{exhaustionQuiet - time.Second, 5, 8, 10, false, true},
		{time.Second, 6, 8, 10, true, false},
		{exhaustionQuiet, 6, 8, 10, false, false},
	} {
		if ports, flows := look(step.wait, step.xdp, step.tc, step.full); ports != step.ports || flows != step.flows {
			t.Errorf("step %d: ports %t, flows %t, want %t, %t", i, ports, flows, step.ports, step.flows)
		}
	}
}

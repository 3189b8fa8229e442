// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"

	"github.com/waggle-lb/waggle/bpf"
)

// Counter is what was counted of one verdict at one hook, over all CPUs.
type Counter struct {
	Hook    bpf.Hook
	Verdict bpf.Verdict
	Packets uint64
	Bytes   uint64
}

// ReadCounters reads all counters that are not zero, by hook and verdict.
func ReadCounters(p Provider) ([]Counter, error) {
	var out []Counter
	m := p.Map("counters")
	for hook := bpf.Hook(0); hook < bpf.HookCount; hook++ {
		for verdict := bpf.Verdict(0); verdict < bpf.VerdictCount; verdict++ {
			var perCPU []bpf.Counter
			index := uint32(hook)*uint32(bpf.VerdictCount) + uint32(verdict)
			if err := m.Lookup(index, &perCPU); err != nil {
				return nil, fmt.Errorf("reading the map counters: %w", err)
			}
			c := Counter{Hook: hook, Verdict: verdict}
			for _, v := range perCPU {
				c.Packets += v.Packets
				c.Bytes += v.Bytes
			}
			if c.Packets > 0 {
				out = append(out, c)
			}
		}
	}
	return out, nil
}

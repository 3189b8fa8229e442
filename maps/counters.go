// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Counter is the count of one verdict at one hook, over all CPUs.
type Counter struct {
	Hook    bpf.Hook
	Verdict bpf.Verdict
	Packets uint64
	Bytes   uint64
}

// ReadCounters reads all counters that are not zero, by hook and verdict.
func ReadCounters(p Provider) ([]Counter, error) {
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("reading the map counters: %w", err)
	}
	const count = int(bpf.HookCount) * int(bpf.VerdictCount)
	indexes, perCPU := make([]uint32, count), make([]bpf.Counter, count*cpus)
	var cursor ebpf.MapBatchCursor
	read, err := p.Map("counters").BatchLookup(&cursor, indexes, perCPU, nil) // one system call for all
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {                   // there are no more
		return nil, fmt.Errorf("reading the map counters: %w", err)
	}
	var out []Counter
	for i, index := range indexes[:read] {
		c := Counter{Hook: bpf.Hook(index / uint32(bpf.VerdictCount)), Verdict: bpf.Verdict(index % uint32(bpf.VerdictCount))}
		for _, v := range perCPU[i*cpus : (i+1)*cpus] {
			c.Packets += v.Packets
			c.Bytes += v.Bytes
		}
		if c.Packets > 0 {
			out = append(out, c)
		}
	}
	return out, nil
}

// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"

	"github.com/cilium/ebpf"
)

// quiescence waits for running programs. The kernel has no call for this alone, but it waits
// whenever user space replaces a map in a map of maps (maybe_wait_bpf_programs,
// kernel/bpf/syscall.c).
type quiescence struct {
	outer, inner *ebpf.Map
}

// wait returns when every program that ran at the time of the call has ended: after about 20 ms.
func (q *quiescence) wait() error {
	if err := q.prepare(); err != nil {
		return fmt.Errorf("waiting for running programs: %w", err)
	}
	if err := q.outer.Put(uint32(0), q.inner); err != nil {
		return fmt.Errorf("waiting for running programs: %w", err)
	}
	return nil
}

// prepare makes the two maps when they are first needed: most agents never need them.
func (q *quiescence) prepare() error {
	if q.outer != nil {
		return nil
	}
	spec := &ebpf.MapSpec{Name: "waggle_wait_in", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	inner, err := ebpf.NewMap(spec)
	if err != nil {
		return err
	}
	outer, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: "waggle_wait", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: spec,
	})
	if err != nil {
		_ = inner.Close()
		return err
	}
	q.outer, q.inner = outer, inner
	return nil
}

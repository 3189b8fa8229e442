// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Adopt makes a record, unless there is one with the same key. added says whether it did.
func (d *Datapath) Adopt(a bpf.Adoption) (added bool, err error) {
	defer d.recordsMade.Add(1)
	return d.record("waggle_adopt", a)
}

// RecordsMade is how often this process has been asked to make a record. It counts after the record is made.
func (d *Datapath) RecordsMade() uint64 { return d.recordsMade.Load() }

// Follow keeps a record with the same key, rewrite and flags alive, as if a packet had been seen
// just now, and sets the bits of a.State in its state. It returns whether there is such a record.
func (d *Datapath) Follow(a bpf.Adoption) (found bool, err error) {
	return d.record("waggle_follow", a)
}

// Leave ends a record with the same key, rewrite and flags. It returns whether there was one.
func (d *Datapath) Leave(a bpf.Adoption) (found bool, err error) {
	return d.record("waggle_leave", a)
}

// record runs a program on one record.
func (d *Datapath) record(program string, a bpf.Adoption) (bool, error) {
	d.walk.Lock()
	defer d.walk.Unlock()
	ret, err := d.Program(program).Run(&ebpf.RunOptions{Context: a})
	if err == nil && int32(ret) < 0 {
		err = unix.Errno(-int32(ret))
	}
	if err != nil {
		return false, fmt.Errorf("%s: %w", program, err)
	}
	return ret != 0, nil
}

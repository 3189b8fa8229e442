// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Expire walks one family's flows, releases the dead, and counts all. It takes time in proportion
// to the table.
func (d *Datapath) Expire(ipv6 bool) (bpf.Census, error) { return d.CountActive(ipv6, 0) }

// CountActive is Expire, and counts flows for their services and backends as pass number pass. See
// maps.CompletePass for when those counts are in force.
func (d *Datapath) CountActive(ipv6 bool, pass uint32) (bpf.Census, error) {
	d.walk.Lock()
	defer d.walk.Unlock()
	return census(d.Program(familyProgram("waggle_expire", ipv6)), bpf.Census{Release: 1, Pass: pass})
}

// Census counts one family's flows, and changes nothing.
func (v *View) Census(ipv6 bool) (bpf.Census, error) {
	name := familyProgram("waggle_expire", ipv6)
	program, err := ebpf.LoadPinnedProgram(v.pins.programPin(name), nil)
	if err != nil {
		return bpf.Census{}, fmt.Errorf("open the pinned program %s: %w", name, err)
	}
	defer program.Close()
	return census(program, bpf.Census{})
}

func census(program *ebpf.Program, c bpf.Census) (bpf.Census, error) {
	err := runWalk(program, c, &c)
	return c, err
}

func familyProgram(program string, ipv6 bool) string {
	if ipv6 {
		return program + "6"
	}
	return program + "4"
}

// runWalk runs a program that walks over the flows. Such programs share memory: one runs at a time,
// and others fail with EBUSY.
func runWalk(program *ebpf.Program, in, out any) error {
	ret, err := program.Run(&ebpf.RunOptions{Context: in, ContextOut: out})
	if err == nil && int32(ret) < 0 {
		err = unix.Errno(-int32(ret))
	}
	if err != nil {
		return fmt.Errorf("%s: %w", program, err)
	}
	return nil
}

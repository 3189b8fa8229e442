// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The bounds of what any architecture's kernel can be configured with.
const (
	minHZ = 24
	maxHZ = 1200
)

// tickRate is the kernel's HZ, which no interface names. The coarse clocks advance once a tick, and
// their resolution is exactly that: no need to count jiffies against a clock for a while, nor to
// mistrust the count on a loaded machine.
func tickRate() (uint32, error) {
	var tick unix.Timespec
	if err := unix.ClockGetres(unix.CLOCK_MONOTONIC_COARSE, &tick); err != nil {
		return 0, fmt.Errorf("read the length of a tick: %w", err)
	}
	hz := (int64(time.Second) + tick.Nano()/2) / max(tick.Nano(), 1)
	if hz < minHZ || hz > maxHZ {
		return 0, fmt.Errorf("the length of a tick cannot be %v", time.Duration(tick.Nano()))
	}
	return uint32(hz), nil
}

// Jiffies is what the times in the maps are compared with, and how many there are in a second.
func (d *Datapath) Jiffies() (now, hz uint32, err error) {
	now, err = runJiffies(d.Program(jiffiesProgram))
	return now, d.hz, err
}

const jiffiesProgram = "waggle_jiffies"

func runJiffies(program *ebpf.Program) (now uint32, err error) {
	if _, err := program.Run(&ebpf.RunOptions{Context: now, ContextOut: &now}); err != nil {
		return 0, fmt.Errorf("read jiffies: %w", err)
	}
	return now, nil
}

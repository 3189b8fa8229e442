// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// The bounds of HZ in any architecture's kernel configuration.
const (
	minHZ = 24
	maxHZ = 1200
)

// tickRate returns the kernel's HZ, which no interface reports. The coarse clocks advance once a
// tick, so their resolution is exactly one tick. A count of jiffies against a clock would take a
// while, and be wrong on a loaded machine.
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

// Jiffies returns the present time in the maps' unit, and how many jiffies a second has.
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

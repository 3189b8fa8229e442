// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// provider is a maps.Provider.
type provider map[string]*ebpf.Map

// Map implements maps.Provider.
func (p provider) Map(name string) *ebpf.Map {
	if p[name] == nil {
		panic("the datapath has no map " + name)
	}
	return p[name]
}

// harness runs programs on the packets of a driver, by BPF_PROG_TEST_RUN.
type harness struct {
	*ebpf.Collection
	ifindex uint32 // the device that the packets come in by
}

// threadTime returns the processor time that this thread has used. It does not include other
// processes.
func threadTime() (time.Duration, error) {
	var ts unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &ts)
	return time.Duration(ts.Nano()), err
}

// run runs a program on so many packets. It returns how many there really were (a run that a signal
// interrupts is restarted), and the thread's time for each, in nanoseconds. Call it in the
// namespace of the device.
func (h *harness) run(hook bpf.Hook, program *ebpf.Program, d probe.Drive, packets uint32) (ran uint32, ns float64, err error) {
	driver, slot := h.Programs["drive_"+driverOf(hook)], h.Maps["measured_"+driverOf(hook)]
	var context any = struct {
		_                [9]uint32
		ingress, ifindex uint32
	}{ingress: h.ifindex, ifindex: h.ifindex}
	if hook == bpf.HookXDP {
		context = struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{dataEnd: probe.Frame, ingress: h.ifindex}
	}
	if err := slot.Put(uint32(0), program); err != nil {
		return 0, 0, err
	}
	if err := h.Variables["driven"].Set(&d); err != nil {
		return 0, 0, err
	}
	before, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	if _, err := driver.Run(&ebpf.RunOptions{Data: frameOf(d), Repeat: packets, Context: context}); err != nil {
		return 0, 0, err
	}
	after, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	var now probe.Drive
	if err := h.Variables["driven"].Get(&now); err != nil {
		return 0, 0, err
	}
	if now.Missed > 0 {
		return 0, 0, fmt.Errorf("%d lookups found nothing", now.Missed)
	}
	if now.Failed > 0 {
		return 0, 0, fmt.Errorf("%d records: %w", now.Failed, errNoRoom)
	}
	ran = now.Next - d.Next
	return ran, float64((after - before).Nanoseconds()) / float64(ran), nil
}

// driverOf returns the driver, and the kind of program, of a hook: "xdp" or "tc".
func driverOf(hook bpf.Hook) string {
	if hook == bpf.HookXDP {
		return "xdp"
	}
	return "tc"
}

func frameOf(d probe.Drive) []byte {
	frame := make([]byte, 0, probe.Frame)
	for _, w := range d.Frame {
		frame = append(frame, byte(w), byte(w>>8), byte(w>>16), byte(w>>24), byte(w>>32), byte(w>>40), byte(w>>48), byte(w>>56))
	}
	return frame
}

// counted reads the datapath's counters.
func counted(p maps.Provider) (map[bpf.Hook]map[bpf.Verdict]uint64, error) {
	list, err := maps.ReadCounters(p)
	if err != nil {
		return nil, err
	}
	all := map[bpf.Hook]map[bpf.Verdict]uint64{}
	for _, c := range list {
		if all[c.Hook] == nil {
			all[c.Hook] = map[bpf.Verdict]uint64{}
		}
		all[c.Hook][c.Verdict] = c.Packets
	}
	return all, nil
}

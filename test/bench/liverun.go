// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"runtime"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// testRun is the part of union bpf_attr that BPF_PROG_TEST_RUN reads.
type testRun struct {
	program, retval     uint32
	dataIn, dataOut     uint32
	data, dataOutBuffer uint64
	repeat, duration    uint32
	contextIn, _        uint32
	context, _          uint64
	flags, cpu, batch   uint32
	_                   uint32
}

const (
	bpfProgTestRun = 10
	liveBatch      = 64 // packets, as many as a driver polls at once
)

// runLive injects frames, and returns the kernel's time for each. This excludes allocating and
// freeing the pages, and waiting for the processor. ebpf's own method does not return that time.
func runLive(p *ebpf.Program, frame []byte, ifindex, packets uint32) (time.Duration, error) {
	context := struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{dataEnd: uint32(len(frame)), ingress: ifindex}
	attr := testRun{program: uint32(p.FD()), dataIn: uint32(len(frame)), data: uint64(uintptr(unsafe.Pointer(&frame[0]))),
		repeat: packets, contextIn: uint32(unsafe.Sizeof(context)), context: uint64(uintptr(unsafe.Pointer(&context))),
		flags: unix.BPF_F_TEST_XDP_LIVE_FRAMES, batch: liveBatch}
	for {
		_, _, errno := unix.Syscall(unix.SYS_BPF, bpfProgTestRun, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		runtime.KeepAlive(frame)
		runtime.KeepAlive(&context)
		switch errno {
		case 0:
			return time.Duration(attr.duration), nil
		case unix.EINTR:
			continue
		default:
			return 0, fmt.Errorf("inject packets: %w", errno)
		}
	}
}

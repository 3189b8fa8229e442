// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"math/bits"
	"os"
	"runtime"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// leastMapped is how much of an array is mapped at first, in bytes: 256 KiB hold the endpoints of a
// thousand services.
const leastMapped = 256 << 10

// memory is the memory of an array (BPF_F_MMAPABLE). Only the head that is in use stays mapped: the kernel
// maps all pages at once, and counts them as the process's, and the arrays of backends and slots have 15 MB.
// It is not safe for concurrent use.
type memory struct {
	m       *ebpf.Map
	size    int // of the whole array, in bytes
	head    []byte
	cleanup runtime.Cleanup
}

// mapHead maps the head of an array. stride is the distance of two elements, in bytes.
func mapHead(m *ebpf.Map, stride int) (*memory, error) {
	page := os.Getpagesize()
	a := &memory{m: m, size: (int(m.MaxEntries())*stride + page - 1) / page * page}
	return a, a.grow(leastMapped)
}

// grow maps at least the bytes up to end.
func (a *memory) grow(end int) error {
	if end <= len(a.head) {
		return nil
	}
	head, err := unix.Mmap(a.m.FD(), 0, min(a.size, 1<<bits.Len(uint(end-1))), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping it: %w", err)
	}
	err = a.unmap()
	a.head = head
	a.cleanup = runtime.AddCleanup(a, func(head []byte) { _ = unix.Munmap(head) }, head)
	return err
}

func (a *memory) unmap() error {
	if a.head == nil {
		return nil
	}
	a.cleanup.Stop()
	return unix.Munmap(a.head)
}

var errOutside = errors.New("outside the array")

// write copies into the array. Each word of an element is written in one piece.
func (a *memory) write(from []byte, at int) error {
	end := at + len(from)
	if end > a.size {
		return errOutside
	}
	if err := a.grow(end); err != nil {
		return err
	}
	copy(a.head[at:end], from)
	return nil
}

// read copies from the array. It maps what is beyond the head for the time of the call only.
func (a *memory) read(into []byte, at int) error {
	end := at + len(into)
	switch {
	case end > a.size:
		return errOutside
	case end <= len(a.head):
		copy(into, a.head[at:end])
		return nil
	}
	first := at &^ (os.Getpagesize() - 1)
	part, err := unix.Mmap(a.m.FD(), int64(first), end-first, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("mapping it: %w", err)
	}
	copy(into, part[at-first:])
	return unix.Munmap(part)
}

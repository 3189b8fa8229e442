// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CheckWritable fails if the kernel refuses all writes to a map by system call, as it does for a frozen one. The
// error names the map. CheckWritable writes nothing. The programs' constants are frozen on purpose.
func (d *Datapath) CheckWritable() error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(d.collection.Maps)) {
		if strings.HasPrefix(name, ".") {
			continue
		}
		if err := probeWrite(d.collection.Maps[name].FD()); !errors.Is(err, unix.EFAULT) {
			errs = append(errs, fmt.Errorf("the map %s can't be written: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// probeWrite requests an update from no memory. The kernel checks permissions first, and fails with EPERM;
// otherwise it fails with EFAULT (kernel/bpf/syscall.c, map_update_elem).
func probeWrite(fd int) error {
	attr := struct {
		fd, _             uint32
		key, value, flags uint64
	}{fd: uint32(fd)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_UPDATE_ELEM, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	return errno
}

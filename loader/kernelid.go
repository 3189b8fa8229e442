// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"runtime"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// kernelID asks the kernel for a program's id, and for nothing else. ebpf.Program.Info has it copy the program's
// instructions, too, and decodes its types.
func kernelID(program *ebpf.Program) (ebpf.ProgramID, error) {
	var info struct{ kind, id uint32 } // the beginning of struct bpf_prog_info (linux/bpf.h)
	attr := struct {
		fd, size uint32
		info     unsafe.Pointer
	}{uint32(program.FD()), uint32(unsafe.Sizeof(info)), unsafe.Pointer(&info)}
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_OBJ_GET_INFO_BY_FD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	runtime.KeepAlive(program)
	if errno != 0 {
		return 0, fmt.Errorf("ask for the program %s: %w", program, errno)
	}
	return ebpf.ProgramID(info.id), nil
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"
)

// checkPrivileges names the missing capabilities. A failing system call would only return EPERM.
func checkPrivileges() error {
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	missing := missingCapabilities(effective)
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing privileges: %s; run as root, or grant them "+
		"(Kubernetes: securityContext.capabilities.add, systemd: AmbientCapabilities=): %w",
		strings.Join(missing, ", "), unix.EPERM)
}

// optionalCapabilities are those without which only a part does not work. The agent reports that part.
var optionalCapabilities = []struct {
	capability int
	name, what string
}{
	{unix.CAP_SYS_ADMIN, "CAP_SYS_ADMIN", "enter the network namespaces of pods, and read the names of other programs"},
	{unix.CAP_SYS_PTRACE, "CAP_SYS_PTRACE", "find the network namespaces of pods in /proc"},
}

// CheckOptionalPrivileges names missing capabilities that the datapath works without, and what does not work then.
// nil: none is missing.
func CheckOptionalPrivileges() error {
	effective, err := effectiveCapabilities()
	if err != nil {
		return err
	}
	return missingOptional(effective)
}

func missingOptional(effective uint64) error {
	var missing []string
	for _, o := range optionalCapabilities {
		if effective>>o.capability&1 == 0 {
			missing = append(missing, fmt.Sprintf("%s (%s)", o.name, o.what))
		}
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("missing: %s: connected UDP sockets in pods stay with endpoints that are gone", strings.Join(missing, ", "))
}

func effectiveCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return 0, fmt.Errorf("read the process's capabilities: %w", err)
	}
	return uint64(data[1].Effective)<<32 | uint64(data[0].Effective), nil
}

func missingCapabilities(effective uint64) []string {
	has := func(capability int) bool { return effective>>capability&1 == 1 }
	var missing []string
	if !has(unix.CAP_NET_ADMIN) {
		missing = append(missing, "CAP_NET_ADMIN")
	}
	if has(unix.CAP_SYS_ADMIN) { // Linux 5.8 split the two below off this one
		return missing
	}
	if !has(unix.CAP_BPF) {
		missing = append(missing, "CAP_BPF")
	}
	if !has(unix.CAP_PERFMON) {
		missing = append(missing, "CAP_PERFMON")
	}
	return missing
}

// need is a feature of the kernel that the programs require.
type need struct {
	what  string
	since string
	probe func() error
}

func needProgram(typ ebpf.ProgramType, since string) need {
	return need{typ.String() + " programs", since, func() error { return features.HaveProgramType(typ) }}
}

func needHelper(typ ebpf.ProgramType, helper asm.BuiltinFunc, since string) need {
	return need{fmt.Sprintf("%v in %v programs", helper, typ), since,
		func() error { return features.HaveProgramHelper(typ, helper) }}
}

func needMap(typ ebpf.MapType, since string) need {
	return need{typ.String() + " maps", since, func() error { return features.HaveMapType(typ) }}
}

var needs = []need{
	needProgram(ebpf.XDP, "4.8"),
	needProgram(ebpf.SchedCLS, "4.1"),
	needProgram(ebpf.CGroupSockAddr, "4.17"),
	needProgram(ebpf.Syscall, "5.14"),
	needHelper(ebpf.XDP, asm.FnJiffies64, "5.6"),
	needHelper(ebpf.XDP, asm.FnFibLookup, "4.18"),
	needHelper(ebpf.SchedCLS, asm.FnRedirectNeigh, "5.10"),
	needHelper(ebpf.Syscall, asm.FnForEachMapElem, "5.13"),
	needHelper(ebpf.Syscall, asm.FnLoop, "5.17"),
	needHelper(ebpf.CGroupSockAddr, asm.FnGetNetnsCookie, "5.7"),
	needHelper(ebpf.CGroupSockAddr, asm.FnSkStorageGet, "5.8"),
	needHelper(ebpf.CGroupSockAddr, asm.FnSetRetval, "5.18"),
	needMap(ebpf.LRUHash, "4.10"),
	needMap(ebpf.DevMapHash, "5.4"),
	needMap(ebpf.SkStorage, "5.2"),
}

// OldestTested is the oldest kernel that the tests run on: `make test-vm`. Linux has all that the programs need since
// 5.18.
const OldestTested = "6.1"

// checkKernel names what the running kernel lacks. It trusts probes, not version numbers: vendors backport features.
func checkKernel() error { return checkNeeds(needs) }

func checkNeeds(needs []need) error {
	var missing []string
	for _, n := range needs {
		err := n.probe()
		switch {
		case errors.Is(err, ebpf.ErrNotSupported):
			missing = append(missing, fmt.Sprintf("%s (Linux %s)", n.what, n.since))
		case errors.Is(err, unix.EPERM):
			return fmt.Errorf("the bpf system call is not permitted: look for a seccomp profile, "+
				"an LSM, or kernel lockdown that forbids it: %w", err)
		}
		// Any other failure is the probe's own: loading the programs shows the cause.
	}
	if len(missing) == 0 {
		return nil
	}
	return fmt.Errorf("kernel %s lacks %s: upgrade it (Linux %s has them all), or configure it with them: %w",
		kernelRelease(), strings.Join(missing, ", "), OldestTested, ebpf.ErrNotSupported)
}

// fibTakesMark reports whether bpf_fib_lookup() takes a packet's mark, as ip rules do: since Linux 6.10. No probe is
// possible, because the helper takes a packet.
func fibTakesMark() bool {
	version, err := features.LinuxVersionCode()
	return err == nil && version >= 6<<16|10<<8
}

// kernelHasMPTCP reports whether sockets can be MPTCP's. A kernel without MPTCP has the helper for its sockets, but
// lacks the type that the helper returns.
func kernelHasMPTCP(types *btf.Cache) bool {
	spec, err := types.Kernel()
	if err != nil {
		return false
	}
	var socket *btf.Struct
	return spec.TypeByName("mptcp_sock", &socket) == nil
}

func kernelRelease() string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "(unknown)"
	}
	return unix.ByteSliceToString(name.Release[:])
}

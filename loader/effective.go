// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// CheckCgroup reports whether sockets of processes in a cgroup2 directory run our socket programs,
// by the programs that are in effect there: those of the cgroup and of all cgroups above it. A link
// is no proof: it stays with a cgroup that has been removed, even if another one is made under that
// path afterwards. The error names the hooks without their program.
func (d *Datapath) CheckCgroup(path string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	dir, _, err := openCgroup(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	ours, err := d.programNames()
	if err != nil {
		return err
	}
	var missing []string
	for _, h := range cgroupHooks {
		runs, err := inEffect(int(dir.Fd()), h.attach, h.program(), ours)
		if err != nil {
			return fmt.Errorf("cgroup %s: %s: %w", path, h.name, err)
		}
		if !runs {
			missing = append(missing, h.name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("cgroup %s: not in effect: %s", path, strings.Join(missing, ", "))
	}
	return nil
}

func inEffect(cgroup int, attach ebpf.AttachType, program string, ours programNames) (bool, error) {
	result, err := link.QueryPrograms(link.QueryOptions{Target: cgroup, Attach: attach, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE})
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(result.Programs, func(p link.AttachedProgram) bool { return ours[p.ID] == program }), nil
}

// IsCgroupRoot reports whether a directory is the root of the cgroup2 hierarchy, so that programs
// there are in effect for all processes.
func IsCgroupRoot(path string) bool {
	var stat unix.Stat_t
	return unix.Stat(path, &stat) == nil && stat.Ino == cgroupRootID
}

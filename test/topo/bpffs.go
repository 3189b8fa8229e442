// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const bpffsDir = "/sys/fs/bpf"

// MountBPFFS mounts /sys/fs/bpf unless it is mounted. It stays mounted.
func MountBPFFS() error {
	dir, err := os.Open(bpffsDir)
	if err != nil {
		return err
	}
	defer dir.Close()
	// Two mounts on top of each other would hide the first one's pins.
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", bpffsDir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(bpffsDir, &fs); err != nil {
		return fmt.Errorf("statfs %s: %w", bpffsDir, err)
	}
	if fs.Type == unix.BPF_FS_MAGIC {
		return nil
	}
	if err := unix.Mount("bpf", bpffsDir, "bpf", 0, "mode=0700"); err != nil {
		return fmt.Errorf("mount %s: %w", bpffsDir, err)
	}
	return nil
}

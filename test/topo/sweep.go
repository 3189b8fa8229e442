// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Sweep removes what a crashed run left of the network with this prefix:
// processes, names below /run/netns, and cgroups. Do not call it while that
// network is in use.
func Sweep(prefix string) error {
	if !validPrefix.MatchString(prefix) {
		return fmt.Errorf("sweep: prefix %q: want lower-case letters and digits", prefix)
	}
	mount, err := cgroup2Mount()
	if err != nil {
		return err
	}
	dir := filepath.Join(mount, cgroupPrefix+prefix)
	errs := []error{killCgroup(dir), removeCgroup(dir)}
	// A prefix has no dash, so this can't match another network's names.
	names, err := filepath.Glob(filepath.Join(namesDir, prefix+"-*"))
	errs = append(errs, err)
	for _, name := range names {
		errs = append(errs, removeName(filepath.Base(name)))
	}
	return errors.Join(errs...)
}

// sweepDead removes the networks without a chosen prefix whose process is gone.
func sweepDead() error {
	mount, err := cgroup2Mount()
	if err != nil {
		return err
	}
	dirs, err := filepath.Glob(filepath.Join(mount, cgroupPrefix+"p*n*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		prefix := strings.TrimPrefix(filepath.Base(dir), cgroupPrefix)
		var pid, count int
		_, err := fmt.Sscanf(prefix, "p%dn%d", &pid, &count)
		if err != nil || prefix != defaultPrefix(pid, count) {
			continue
		}
		if unix.Kill(pid, 0) != unix.ESRCH {
			continue
		}
		// Another process may sweep the same network: files may be gone, or
		// open and dead.
		err = Sweep(prefix)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("sweep after process %d: %w", pid, err)
		}
	}
	return nil
}

func defaultPrefix(pid, count int) string { return fmt.Sprintf("p%dn%d", pid, count) }

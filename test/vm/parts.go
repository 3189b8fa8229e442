// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// parts is what a machine is made of, unpacked under the directory build.
type parts struct {
	launcher string // the Python modules of virtme-ng
	kernel   kernel
	root     string
}

// unpackParts fetches and unpacks what is not there yet. Another run of the same build directory waits meanwhile:
// apt-get would fail, and what is half unpacked looks whole.
func unpackParts(build string, a arch, version string) (p parts, err error) {
	if err := os.MkdirAll(build, 0o755); err != nil {
		return p, err
	}
	dir, err := os.Open(build)
	if err != nil {
		return p, err
	}
	defer dir.Close() // ends the lock, too
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return p, fmt.Errorf("lock %s: %w", build, err)
	}
	debian := archive{dir: filepath.Join(build, "debian", a.name), arch: a.name}
	if err := debian.update(); err != nil {
		return p, err
	}
	if p.launcher, err = unpackLauncher(debian, filepath.Join(build, "virtme-ng")); err != nil {
		return p, err
	}
	if p.kernel, err = unpackKernel(debian, filepath.Join(build, "kernels"), version); err != nil {
		return p, err
	}
	p.root, err = unpackRoot(debian, filepath.Join(build, "roots", a.name))
	return p, err
}

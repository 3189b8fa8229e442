// SPDX-License-Identifier: Apache-2.0

// Package rundir lays out the directory that an agent keeps its files in (--run-dir). The package
// that writes a file defines its contents.
package rundir

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

// mode is the mode of a new run directory: all users may read the status.
const mode = 0o755

// Make makes the directory, if it does not exist.
func Make(dir string) error { return atomicfile.MakeDir(dir, mode) }

// StatusFile is the path of the agent's status. Every agent writes one.
func StatusFile(dir string) string { return filepath.Join(dir, "status.json") }

// ReservedPortsFile is the path of the record of the ports that are reserved for the agent.
func ReservedPortsFile(dir string) string { return filepath.Join(dir, "reserved-ports.json") }

// Cache is the path of the directory where sources keep what must outlive a restart.
func Cache(dir string) string { return filepath.Join(dir, "last-good") }

// Remove deletes the status and the cache, and the directory if it is empty then. It returns the
// paths of what it has deleted, also where it fails. It leaves the record of reserved ports, which
// node.ReleasePorts deletes.
func Remove(dir string) (removed []string, err error) {
	status := StatusFile(dir)
	for _, path := range []string{Cache(dir), atomicfile.Temp(status), status} {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	if os.Remove(dir) == nil { // it may hold what isn't ours, or be a mount point
		removed = append(removed, dir)
	}
	return removed, nil
}

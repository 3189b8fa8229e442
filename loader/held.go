// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// Held reports whether an agent holds a pin directory: an agent holds it while it runs.
func Held(pinDirectory string) bool {
	dir, err := os.Open(pinDirectory)
	if err != nil {
		return false
	}
	defer dir.Close() // and with it, the lock
	return errors.Is(unix.Flock(int(dir.Fd()), unix.LOCK_SH|unix.LOCK_NB), unix.EWOULDBLOCK)
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// ErrHeld is returned by Load, Maintain and Cleanup while an agent holds the pin directory.
var ErrHeld = errors.New("another agent holds the pin directory")

// lock locks the directory itself, so that no lock file can go stale. The kernel releases the lock
// with the descriptor.
func (p pinDir) lock() (*os.File, error) {
	for {
		dir, err := os.Open(string(p))
		if errors.Is(err, os.ErrPermission) {
			return nil, fmt.Errorf("open the pin directory: run as root: %w", err)
		}
		if err != nil {
			return nil, fmt.Errorf("open the pin directory: %w", err)
		}
		err = flockSoon(dir)
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("%w %s (%s): stop it first", ErrHeld, p, lockHolder(dir))
			return nil, errors.Join(err, dir.Close())
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", p, err), dir.Close())
		}
		if sameFile(dir, string(p)) {
			return dir, nil
		}
		// A Cleanup removed the directory between open and flock: this lock protects nothing.
		dir.Close()
		if err := p.create(); err != nil {
			return nil, err
		}
	}
}

// flockSoon tries for a moment, because Held takes the lock for an instant to see whether it can.
func flockSoon(dir *os.File) error {
	const tries, pause = 10, 20 * time.Millisecond
	var err error
	for range tries {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return err
		}
		time.Sleep(pause)
	}
	return err
}

func sameFile(file *os.File, path string) bool {
	held, err := file.Stat()
	if err != nil {
		return false
	}
	named, err := os.Stat(path)
	return err == nil && os.SameFile(held, named)
}

// lockHolder describes the lock's holder, as far as this process's pid namespace shows it.
func lockHolder(file *os.File) string {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return "pid unknown"
	}
	id := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	locks, err := os.Open("/proc/locks")
	if err != nil {
		return "pid unknown"
	}
	defer locks.Close()
	// 1: FLOCK  ADVISORY  WRITE 1234 00:1f:5678 0 EOF
	for lines := bufio.NewScanner(locks); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 5 && fields[1] == "FLOCK" && fields[5] == id {
			return "pid " + fields[4]
		}
	}
	return "in another pid namespace"
}

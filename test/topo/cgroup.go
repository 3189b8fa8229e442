// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const cgroupPrefix = "waggle-"

// cgroupTree are a network's cgroups, <cgroup2>/waggle-<prefix>/...
type cgroupTree struct{ root string }

func newCgroupTree(prefix string) (*cgroupTree, error) {
	mount, err := cgroup2Mount()
	if err != nil {
		return nil, err
	}
	t := &cgroupTree{root: filepath.Join(mount, cgroupPrefix+prefix)}
	if err := os.Mkdir(t.root, 0o755); err != nil {
		return nil, fmt.Errorf("cgroup (a crashed run's leftover? see Sweep): %w", err)
	}
	return t, nil
}

func (t *cgroupTree) make(path ...string) (string, error) {
	dir := filepath.Join(t.root, filepath.Join(path...))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("cgroup: %w", err)
	}
	return dir, nil
}

func (t *cgroupTree) kill() error { return killCgroup(t.root) }

func (t *cgroupTree) remove() error { return removeCgroup(t.root) }

// killCgroup kills all processes in a cgroup and below, and waits for their end.
func killCgroup(dir string) error {
	err := os.WriteFile(filepath.Join(dir, "cgroup.kill"), []byte("1"), 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill cgroup: %w", err)
	}
	return awaitEmpty(dir)
}

func awaitEmpty(dir string) error {
	events, err := os.Open(filepath.Join(dir, "cgroup.events"))
	if err != nil {
		return err
	}
	defer events.Close()
	buffer := make([]byte, 256)
	for deadline := time.Now().Add(settleTime); ; {
		// Reading also rearms the poll.
		length, err := events.ReadAt(buffer, 0)
		if length == 0 {
			return fmt.Errorf("read %s: %w", events.Name(), err)
		}
		if strings.Contains(string(buffer[:length]), "populated 0") {
			return nil
		}
		left := time.Until(deadline)
		if left <= 0 {
			return fmt.Errorf("cgroup %s: processes that won't die", dir)
		}
		poll := []unix.PollFd{{Fd: int32(events.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(poll, int(left.Milliseconds())+1); err != nil && err != unix.EINTR {
			return fmt.Errorf("poll %s: %w", events.Name(), err)
		}
	}
}

// removeCgroup removes a cgroup and those below it.
func removeCgroup(dir string) error {
	children, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, child := range children {
		if child.IsDir() {
			if err := removeCgroup(filepath.Join(dir, child.Name())); err != nil {
				return err
			}
		}
	}
	return os.Remove(dir)
}

// cgroup2Mount returns where cgroup2 is mounted. If it is mounted nowhere, it
// mounts it once for all networks, at a place that later calls find.
func cgroup2Mount() (string, error) {
	mounts, err := os.Open("/proc/thread-self/mounts")
	if err != nil {
		return "", err
	}
	defer mounts.Close()
	lines := bufio.NewScanner(mounts)
	for lines.Scan() {
		if f := strings.Fields(lines.Text()); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "waggle-cgroup2-")
	if err != nil {
		return "", err
	}
	if err := unix.Mount("none", dir, "cgroup2", 0, ""); err != nil {
		return "", errors.Join(fmt.Errorf("mount cgroup2: %w", err), os.Remove(dir))
	}
	return dir, nil
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestCgroups(t *testing.T) {
	n := newTestNetwork(t, Defaults())
	node := n.Nodes[0]
	inside := addTestPod(t, node, "inside", PodOptions{})
	outside := addTestPod(t, node, "outside", PodOptions{OutsideCgroup: true})
	root := filepath.Dir(node.Cgroup)
	for host, want := range map[*Host]string{
		inside.Host:     filepath.Join(node.Cgroup, "inside"),
		outside.Host:    filepath.Join(root, "outside", "outside"),
		node.Host:       node.Cgroup,
		n.Laptop:        filepath.Join(root, "laptop"),
		n.Nodes[1].Host: filepath.Join(root, "node-2"),
	} {
		c := newTestClient(t, host)
		if got := cgroupOf(t, c.Pid()); got != want {
			t.Errorf("client of %s is in %s, want %s", host.Name, got, want)
		}
		must(t, c.Close())
	}
}

func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	mount, err := cgroup2Mount()
	must(t, err)
	lines, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	must(t, err)
	for _, line := range strings.Split(string(lines), "\n") {
		if path, ok := strings.CutPrefix(line, "0::"); ok {
			return filepath.Join(mount, path)
		}
	}
	t.Fatalf("process %d is in no cgroup2", pid)
	return ""
}

func TestMountBPFFS(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	for range 2 {
		must(t, MountBPFFS())
	}
	mounts, err := os.ReadFile("/proc/mounts")
	must(t, err)
	if count := strings.Count(string(mounts), " "+bpffsDir+" bpf "); count != 1 {
		t.Errorf("%s is mounted %d times", bpffsDir, count)
	}
}

// Where cgroup2 is mounted nowhere, it is mounted once.
func TestCgroup2Mount(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounting needs root")
	}
	result := make(chan error, 1)
	onThread(func() { guarded(mountCgroup2Anew, result) })
	must(t, <-result)
}

func mountCgroup2Anew() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	there, err := cgroup2Mount()
	if err != nil {
		return err
	}
	if err := unix.Unmount(there, unix.MNT_DETACH); err != nil {
		return err
	}
	made, err := cgroup2Mount()
	if err != nil {
		return err
	}
	again, err := cgroup2Mount()
	if err != nil {
		return err
	}
	if made == there || again != made {
		return fmt.Errorf("mounted at %s, then %s, then %s", there, made, again)
	}
	if _, err := os.Stat(filepath.Join(made, "cgroup.procs")); err != nil {
		return err
	}
	return errors.Join(unix.Unmount(made, 0), os.Remove(made))
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

var sockets = map[string]string{
	"connect4": "waggle_connect4", "connect6": "waggle_connect6",
	"sendmsg4": "waggle_sendmsg4", "sendmsg6": "waggle_sendmsg6",
	"recvmsg4": "waggle_recvmsg4", "recvmsg6": "waggle_recvmsg6",
	"getpeername4": "waggle_getpeername4", "getpeername6": "waggle_getpeername6",
}

// newCgroup makes an empty cgroup, so that our programs affect no process on the machine.
func newCgroup(t *testing.T, name string) string {
	t.Helper()
	needRoot(t)
	root, err := CgroupRoot()
	if err != nil {
		t.Skip(err)
	}
	path := filepath.Join(root, fmt.Sprintf("waggle-loader-test-%d-%s", os.Getpid(), name))
	must(t, os.Mkdir(path, 0o755))
	t.Cleanup(func() { os.Remove(path) })
	return path
}

func expectCgroup(t *testing.T, d *Datapath, path string) {
	t.Helper()
	expectPrograms(t, d, sockets)
	for hook, status := range linksOf(t, d) {
		if status.Kind != "cgroup" || status.Cgroup != path {
			t.Errorf("%s: %+v, want it on %s", hook, status, path)
		}
	}
	if got := inCgroup(t, path); got != 1 {
		t.Errorf("%d connect4 programs in %s, want 1", got, path)
	}
}

func inCgroup(t *testing.T, path string) int {
	t.Helper()
	dir, err := os.Open(path)
	must(t, err)
	defer dir.Close()
	return len(attached(t, int(dir.Fd()), ebpf.AttachCGroupInet4Connect))
}

func TestCgroup(t *testing.T) {
	newNetns(t)
	dir, cgroup := newPinDir(t), newCgroup(t, t.Name())
	d := mustLoad(t, small(dir))
	must(t, d.AttachCgroup(cgroup))
	expectCgroup(t, d, cgroup)
	before := linksOf(t, d)
	mustClose(t, d)

	d = mustLoad(t, small(dir))
	must(t, d.AttachCgroup(cgroup))
	expectCgroup(t, d, cgroup)
	for hook, status := range linksOf(t, d) {
		if status.LinkID != before[hook].LinkID || status.ProgramID == before[hook].ProgramID {
			t.Errorf("%s: before %+v, after %+v, want the same link with another program", hook, before[hook], status)
		}
	}
	must(t, d.DetachCgroup())
	must(t, d.DetachCgroup())
	expectPrograms(t, d, nil)
	if got := inCgroup(t, cgroup); got != 0 {
		t.Errorf("%d programs are left", got)
	}
}

// dropCapabilities removes capabilities from the test's thread, which ends with the test.
func dropCapabilities(t *testing.T, capabilities ...int) {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	must(t, unix.Capget(&header, &data[0]))
	for _, c := range capabilities {
		data[c/32].Effective &^= 1 << (c % 32)
	}
	must(t, unix.Capset(&header, &data[0]))
}

// In a container an agent may not find a cgroup by its id. The status must still show what is attached.
func TestCgroupStatusInContainer(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	cgroup := newCgroup(t, t.Name())
	must(t, d.AttachCgroup(cgroup))
	done := make(chan bool)
	go func() { // on a thread without these capabilities, which ends with it
		defer close(done)
		runtime.LockOSThread()
		dropCapabilities(t, unix.CAP_SYS_ADMIN, unix.CAP_DAC_READ_SEARCH)
		expectCgroup(t, d, cgroup)
		detachLinks(t, dir, "cgroup-connect4")
		for hook, status := range linksOf(t, d) {
			if status.Attached != (hook != "connect4") {
				t.Errorf("connect4 is detached, and %+v", status)
			}
		}
	}()
	<-done
}

func TestCgroupMadeAnew(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	cgroup := newCgroup(t, t.Name())
	must(t, d.AttachCgroup(cgroup))
	must(t, os.Remove(cgroup))
	must(t, os.Mkdir(cgroup, 0o755))
	must(t, d.AttachCgroup(cgroup))
	expectCgroup(t, d, cgroup)
}

func TestCgroupChanged(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	one, two := newCgroup(t, "one"), newCgroup(t, "two")
	must(t, d.AttachCgroup(one))
	must(t, d.AttachCgroup(two))
	expectCgroup(t, d, two)
	if got := inCgroup(t, one); got != 0 {
		t.Errorf("%d programs are left in %s", got, one)
	}
}

func TestCgroupRefused(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	if err := d.AttachCgroup(t.TempDir()); err == nil || !strings.Contains(err.Error(), "cgroup2") {
		t.Errorf("AttachCgroup: got %v, want an error about cgroup2", err)
	}
	if err := d.AttachCgroup("/no/such/cgroup"); err == nil || !strings.Contains(err.Error(), "/no/such/cgroup") {
		t.Errorf("AttachCgroup: got %v, want an error that names the path", err)
	}
	expectPrograms(t, d, nil)
}

// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os/exec"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
)

// pod starts a process in a network namespace of its own.
func pod(t *testing.T) (pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// connect makes a pod's device to the namespace of a process.
func (f *devicesFixture) connect(name string, pid int) {
	f.t.Helper()
	f.AddVeth(name)
	must(f.t, netlink.LinkSetNsPid(f.Link(name+"-peer"), pid))
	f.sync()
}

// The namespace of a process that has just started is found at once, that of an older one after a while.
func TestPodNamespaces(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{}, XDPOff)
	f.SetNodeIPs(nil)
	n := NewPodNamespaces(f.dp, f.Devices, loadertest.Quiet())
	expect := func(when string, missing, known int) {
		t.Helper()
		got, err := n.sync()
		must(t, err)
		cookies, err := maps.NewPodNamespaces(f.dp).All()
		must(t, err)
		if got != missing || len(cookies) != known {
			t.Errorf("%s: %d missing and %d known, want %d and %d", when, got, len(cookies), missing, known)
		}
	}
	f.connect("first", pod(t))
	n.expectNew()
	expect("the first search looks at all processes", 0, 1)

	n.expectNew()
	f.connect("second", pod(t))
	expect("a new process", 0, 2)

	older := pod(t)
	for range podOlder {
		must(t, exec.Command("true").Run())
	}
	n.expectNew()
	f.connect("third", older)
	for range podYoungLooks {
		expect("an older process, among new ones", 1, 2)
	}
	expect("an older process, among all", 0, 3)
}

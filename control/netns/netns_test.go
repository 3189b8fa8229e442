// SPDX-License-Identifier: Apache-2.0

package netns_test

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/waggle-lb/waggle/control/netns"
	"github.com/waggle-lb/waggle/control/netns/netnstest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// inNewNamespace starts a process in a network namespace of its own, and names that.
func inNewNamespace(t *testing.T) (name string, pid int) {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	must(t, cmd.Start())
	t.Cleanup(func() {
		must(t, cmd.Process.Kill())
		_ = cmd.Wait()
	})
	name, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid))
	must(t, err)
	return name, cmd.Process.Pid
}

// TestNamespacesOfNewProcessesFirst: a search for a new pod's namespace finds it among the first, and then
// looks at no more.
func TestNamespacesOfNewProcessesFirst(t *testing.T) {
	netnstest.New(t)
	older, first := inNewNamespace(t)
	newer, second := inNewNamespace(t)
	if second < first { // the kernel has begun from the lowest number again
		older, newer = newer, older
	}
	look := func(enough func(asked []string) bool) (asked []string) {
		must(t, netns.Each(&netns.Filter{
			Known:  func(string) bool { return false },
			Wanted: func(name string, _ *os.File) bool { asked = append(asked, name); return false },
			Enough: func() bool { return enough(asked) },
		}, func() error { return nil }))
		return asked
	}
	all := look(func([]string) bool { return false })
	if i, j := slices.Index(all, newer), slices.Index(all, older); i < 0 || j < i {
		t.Errorf("asked for %v, want %s and then %s", all, newer, older)
	}
	some := look(func(asked []string) bool { return slices.Contains(asked, newer) })
	if !slices.Contains(some, newer) || slices.Contains(some, older) {
		t.Errorf("asked for %v, want none after %s", some, newer)
	}
}

// A visit may be limited to new processes.
func TestNewProcesses(t *testing.T) {
	netnstest.New(t)
	older, first := inNewNamespace(t)
	newer, second := inNewNamespace(t)
	if second < first {
		t.Skip("the kernel has begun from the lowest number again")
	}
	for _, tc := range []struct {
		after        int
		newer, older bool
	}{
		{0, true, true},
		{first, true, false},
		{second, false, false},
		{1 << 30, true, true}, // such a process has not started, so the number is of no use
	} {
		var asked []string
		must(t, netns.Each(&netns.Filter{
			Known:  func(string) bool { return false },
			Wanted: func(name string, _ *os.File) bool { asked = append(asked, name); return false },
			After:  tc.after,
		}, func() error { return nil }))
		if slices.Contains(asked, newer) != tc.newer || slices.Contains(asked, older) != tc.older {
			t.Errorf("after %d of %d and %d: asked for %v, want the newer: %t, the older: %t", tc.after, first, second, asked, tc.newer, tc.older)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// remains finds what is left of a network: its cgroups, the names of its
// namespaces, and all files and threads that keep one of the namespaces alive.
// Other processes on this machine may be making networks of their own
// meanwhile.
func remains(t *testing.T, n *Network, namespaces map[string]bool) []string {
	t.Helper()
	var found []string
	for _, pattern := range []string{
		n.cgroups.root, namesDir + "/" + n.Prefix + "-*",
		"/proc/[0-9]*/task/[0-9]*/ns/net", "/proc/[0-9]*/fd/*",
	} {
		paths, err := filepath.Glob(pattern)
		must(t, err)
		for _, path := range paths {
			target, _ := os.Readlink(path) // the link may be gone, or be no link
			if !strings.HasPrefix(path, "/proc/") || namespaces[target] {
				found = append(found, strings.TrimSpace(path+" "+target))
			}
		}
	}
	return found
}

func namespacesOf(t *testing.T, n *Network) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, h := range n.hosts() {
		id, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", h.ns.file.Fd()))
		must(t, err)
		all[id] = true
	}
	return all
}

func TestCloseLeavesNothing(t *testing.T) {
	n := newTestNetwork(t, Options{Nodes: 2, PodNetwork: VXLAN, XDPPeers: true, Named: true})
	pod := addTestPod(t, n.Nodes[0], "a", PodOptions{})
	removed := addTestPod(t, n.Nodes[0], "b", PodOptions{OutsideCgroup: true})
	serve(t, pod.Host)
	serve(t, removed.Host)
	client := newTestClient(t, pod.Host)
	_, err := n.Laptop.Capture("eth0")
	must(t, err)
	sleeper := n.Nodes[0].Command("sleep", "1000")
	must(t, sleeper.Start())
	namespaces := namespacesOf(t, n)
	if found := remains(t, n, namespaces); len(namespaces) != 6 || len(found) < 1+3*6 {
		t.Fatalf("a live network of %d namespaces has %v", len(namespaces), found)
	}

	must(t, n.Nodes[0].RemovePod(removed))
	must(t, n.Nodes[0].RemovePod(removed))
	if _, err := n.Nodes[0].Link(removed.HostVeth); err == nil {
		t.Error("the veth of a removed pod is there")
	}
	must(t, n.Close())
	must(t, n.Close())
	for _, pid := range []int{client.Pid(), sleeper.Process.Pid} {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("process %d is there: %v", pid, err)
		}
	}
	awaitNothing(t, func() []string { return remains(t, n, namespaces) })
	if _, err := n.Nodes[0].AddPod("late", PodOptions{}); !errors.Is(err, errClosed) {
		t.Errorf("a pod in a closed network: %v", err)
	}
	if err := n.Laptop.Do(func() error { return nil }); !errors.Is(err, errClosed) {
		t.Errorf("Do in a closed network: %v", err)
	}
}

// awaitNothing looks repeatedly: the kernel announces neither the end of a
// thread nor that of an orphan.
func awaitNothing(t *testing.T, look func() []string) {
	t.Helper()
	found := look()
	for deadline := time.Now().Add(settleTime); len(found) > 0 && time.Now().Before(deadline); {
		time.Sleep(5 * time.Millisecond)
		found = look()
	}
	if len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
}

func TestFailedNewLeavesNothing(t *testing.T) {
	prefix := fmt.Sprintf("topotestfail%d", os.Getpid())
	opts := Options{Nodes: 1, Named: true, Prefix: prefix}
	first := newTestNetwork(t, opts)
	if _, err := New(opts); err == nil {
		t.Fatal("two networks of one prefix")
	}
	must(t, first.Close())
	// An existing name makes it fail half-way.
	obstacle := filepath.Join(namesDir, prefix+"-node-1")
	must(t, os.WriteFile(obstacle, nil, 0o600))
	_, err := New(opts)
	must(t, os.Remove(obstacle))
	if err == nil {
		t.Fatal("a name in the way was no failure")
	}
	if found := remains(t, first, nil); len(found) > 0 {
		t.Errorf("left behind: %v", found)
	}
	again, err := New(opts)
	must(t, err)
	must(t, again.Close())
}

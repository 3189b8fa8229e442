// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const crashVariable = "WAGGLE_TOPO_TEST_CRASH"

// waitForCrash is another process's main: it makes a network, prints its
// prefix, and is killed.
func waitForCrash() {
	opts := Defaults()
	opts.Prefix, opts.Named = os.Getenv(crashVariable), true
	if opts.Prefix == "default" {
		opts.Prefix, opts.Named = "", false
	}
	n, err := New(opts)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	server, err := n.Nodes[0].Serve(Ports{HTTP: []uint16{httpPort}})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println(n.Prefix, server.Pid())
	time.Sleep(time.Minute)
}

// crash runs waitForCrash in a process until it is killed, and returns the
// network's prefix when its processes are gone.
func crash(t *testing.T, prefix string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), crashVariable+"="+prefix)
	stdout, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	line, err := bufio.NewReader(stdout).ReadString('\n')
	must(t, err)
	must(t, cmd.Process.Kill())
	if err := cmd.Wait(); err == nil {
		t.Fatal("the process was not killed")
	}
	var pid int
	if _, err := fmt.Sscan(line, &prefix, &pid); err != nil {
		t.Fatalf("%s: %v", strings.TrimSpace(line), err)
	}
	awaitNothing(t, func() []string {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", pid)); err != nil {
			return nil
		}
		return []string{fmt.Sprintf("server process %d", pid)}
	})
	return prefix
}

func leftOf(t *testing.T, prefix string) []string {
	t.Helper()
	mount, err := cgroup2Mount()
	must(t, err)
	return remains(t, &Network{Prefix: prefix, cgroups: &cgroupTree{root: mount + "/" + cgroupPrefix + prefix}}, nil)
}

func TestSweep(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	prefix := crash(t, fmt.Sprintf("topotestsweep%d", os.Getpid()))
	if left := leftOf(t, prefix); len(left) != 5 {
		t.Errorf("a crash leaves a cgroup and four names, not %v", left)
	}
	must(t, Sweep(prefix))
	if left := leftOf(t, prefix); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	must(t, Sweep(prefix))
	if err := Sweep("*"); err == nil {
		t.Error("swept everything")
	}
}

// The next network sweeps after a crashed process whose network had no chosen
// prefix.
func TestSweepDead(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	prefix := crash(t, "default")
	newTestNetwork(t, Options{Nodes: 1})
	if left := leftOf(t, prefix); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"
)

// A command is in the host's network namespace, and in our mount namespace.
func TestCommand(t *testing.T) {
	n := newTestNetwork(t, Options{Nodes: 1})
	node := n.Nodes[0]
	output, err := node.Command("readlink", "/proc/self/ns/net", "/proc/self/ns/mnt").Output()
	must(t, err)
	var network string
	must(t, node.Do(func() (err error) {
		network, err = os.Readlink("/proc/thread-self/ns/net")
		return err
	}))
	mounts, err := os.Readlink("/proc/self/ns/mnt")
	must(t, err)
	if got := strings.Fields(string(output)); len(got) != 2 || got[0] != network || got[1] != mounts {
		t.Errorf("in %v, want %s and %s", got, network, mounts)
	}
	if output, err := node.Command("cat", "/nonexistent").CombinedOutput(); err == nil || len(output) == 0 {
		t.Errorf("a failing command: %v, %q", err, output)
	}
	sleeper := node.Command("sleep", "1000")
	must(t, sleeper.Start())
	if err := sleeper.Stop(time.Minute); err == nil {
		t.Error("a terminated command succeeded")
	}
	if err := node.Command("/nonexistent").Start(); err == nil {
		t.Error("started what is not there")
	}
}

func TestServeFailure(t *testing.T) {
	n := newTestNetwork(t, Options{Nodes: 1})
	serve(t, n.Nodes[0].Host)
	_, err := n.Nodes[0].Serve(Ports{HTTP: []uint16{httpPort}})
	if err == nil || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("a second server on the port: %v", err)
	}
	server, err := n.Nodes[0].Serve(Ports{HTTP: []uint16{httpPort + 1}})
	must(t, err)
	must(t, server.Stop())
	if r := newTestClient(t, n.Laptop).Connect(to(n.Nodes[0].IP4, httpPort+1)); r.Errno != "ECONNREFUSED" {
		t.Errorf("a stopped server: %s", r)
	}
}

func TestDoSurvivesGoexit(t *testing.T) {
	n := newTestNetwork(t, Options{Nodes: 1})
	err := n.Laptop.Do(func() error {
		runtime.Goexit() // as t.Fatal does
		return nil
	})
	if !errors.Is(err, errGoexit) {
		t.Errorf("got %v", err)
	}
}

func TestVethName(t *testing.T) {
	seen := map[string]string{}
	for _, pod := range []string{"a", "0123456789", "frontend-1", "frontend-10", "frontend-11", "frontend-12"} {
		name := vethName(pod)
		if len(name) > 15 || !strings.HasPrefix(name, "veth-") {
			t.Errorf("%s: device name %q", pod, name)
		}
		if other, ok := seen[name]; ok {
			t.Errorf("%s and %s are both %s", pod, other, name)
		}
		seen[name] = pod
	}
}

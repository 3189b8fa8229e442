// SPDX-License-Identifier: Apache-2.0

// Package prometheus has Debian's Prometheus scrape a running agent, and asks it what the dashboards and the
// alerts of deploy/ ask.
package prometheus

import (
	"fmt"
	"os"
	"os/exec"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// binary is the command under test.
var binary string

func TestMain(m *testing.M) {
	topo.Main()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "waggle-prometheus")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if binary, err = cluster.Build(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

func needs(t *testing.T, command string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		t.Skipf("needs %s (Debian: prometheus, nftables)", command)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

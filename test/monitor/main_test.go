// SPDX-License-Identifier: Apache-2.0

// Package monitor watches real traffic through a real agent by `waggle monitor`, and compares what it shows with what
// was sent, and with what the agent's datapath has counted.
package monitor

import (
	"fmt"
	"os"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// binary is the command under test.
var binary string

func TestMain(m *testing.M) {
	topo.Main()
	if os.Getuid() != 0 {
		fmt.Println("skipping the tests of monitor: they make network namespaces, which needs root")
		return
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "waggle-monitor")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for a test that is not root in it
		fmt.Println(err)
		return 1
	}
	if binary, err = cluster.Build(dir); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := topo.MountBPFFS(); err != nil {
		fmt.Println(err)
		return 1
	}
	return m.Run()
}

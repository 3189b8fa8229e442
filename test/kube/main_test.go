// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

func TestMain(m *testing.M) {
	topo.Main()
	os.Exit(run(m))
}

var workDir string

func run(m *testing.M) int {
	var err error
	if workDir, err = os.MkdirTemp("", "waggle-kube"); err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(workDir)
	return m.Run()
}

// buildWaggle compiles the command under test, once, if a test needs it.
var buildWaggle = sync.OnceValues(func() (string, error) {
	if err := topo.MountBPFFS(); err != nil {
		return "", err
	}
	dir := filepath.Join(workDir, "bin")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	return cluster.Build(dir)
})

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

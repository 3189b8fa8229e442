// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// root is the repository's, seen from this directory.
const root = "../.."

// binary is what `make build` would put into the image.
var binary string

func TestMain(m *testing.M) {
	topo.Main()
	containerMain()
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "waggle-deploy")
	if err != nil {
		fmt.Println(err)
		return 1
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "waggle")
	build := exec.Command("go", "build", "-trimpath", "-o", binary, "github.com/waggle-lb/waggle/cmd/waggle")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("building waggle: %v: %s\n", err, out)
		return 1
	}
	return m.Run()
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

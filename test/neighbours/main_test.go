// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

var (
	fast = flag.Bool("fast", false, "leave out the environments that not every submission needs to see")
	only = flag.String("only", "", "try only the environments whose names match this")
	xdp  = flag.Bool("xdp", false, "have waggle attach XDP to the nodes' uplinks")
)

// partsVariable names the environment variable with the directory of flanneld and cni, which
// `make test-neighbours` builds. Without it the tests are skipped.
const partsVariable = "WAGGLE_NEIGHBOURS"

// pluginsDir is where Debian puts CNI plugins.
const pluginsDir = "/usr/lib/cni"

func TestMain(m *testing.M) {
	topo.Main()
	sidecarMain()
	flag.Parse()
	os.Exit(run(m))
}

var workDir string

func run(m *testing.M) int {
	var err error
	if workDir, err = os.MkdirTemp("", "waggle-neighbours"); err != nil {
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
	return cluster.Build(workDir)
})

// partsDir is the directory of flanneld and cni.
func partsDir(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(partsVariable)
	if dir == "" {
		t.Skipf("%s is not set: see make test-neighbours", partsVariable)
	}
	dir, err := filepath.Abs(dir)
	check(t, err)
	return dir
}

// chosen are the environments that the flags ask for.
func chosen(t *testing.T) (out []environment) {
	t.Helper()
	names, err := regexp.Compile(*only)
	check(t, err)
	for _, e := range environments {
		if names.MatchString(e.name) && (e.fast || !*fast) {
			out = append(out, e)
		}
	}
	if len(out) == 0 {
		t.Fatalf("-only %q matches no environment", *only)
	}
	return out
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

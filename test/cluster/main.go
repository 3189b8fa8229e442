// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"flag"
	"fmt"
	"os"

	"github.com/waggle-lb/waggle/test/topo"
)

// Main runs the tests of a package that starts agents, m, with the command that it compiles first; *binary is its
// path then. Without root, which the networks of such tests need, it skips them. It does not return.
func Main(m interface{ Run() int }, binary *string) {
	topo.Main()
	flag.Parse()
	if os.Getuid() != 0 {
		fmt.Println("skipping these tests: they make network namespaces, which needs root")
		os.Exit(0)
	}
	status, err := run(m, binary)
	if err != nil {
		fmt.Println(err)
		status = 1
	}
	os.Exit(status)
}

func run(m interface{ Run() int }, binary *string) (status int, err error) {
	dir, err := os.MkdirTemp("", "waggle-test")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // tests run the command as another user than root, too
		return 0, err
	}
	if *binary, err = Build(dir); err != nil {
		return 0, err
	}
	if err := topo.MountBPFFS(); err != nil {
		return 0, err
	}
	return m.Run(), nil
}

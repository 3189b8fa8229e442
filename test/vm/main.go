// SPDX-License-Identifier: Apache-2.0

// Command vm runs tests on another kernel: under virtme-ng, which boots it with this machine's own
// root file system. Kernels are Debian's; they and virtme-ng are unpacked below build/, and nothing
// of them is installed. The processor is emulated, so everything takes ten to twenty times as long.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// hostLike is the kernel of this machine's version, or the nearest that there is.
const hostLike = "host-like"

type settings struct {
	arch     string
	cpu      string
	kernel   string
	packages []string
	run      string
	skip     string
	patience int
	timeout  time.Duration
	memory   string
}

func main() {
	var s settings
	flag.StringVar(&s.arch, "arch", runtime.GOARCH, "architecture, amd64 or arm64")
	flag.StringVar(&s.cpu, "cpu", "", "processor, one of qemu's (default max for amd64, neoverse-n1 for arm64)")
	flag.StringVar(&s.kernel, "kernel", "", "kernel version, such as 6.1, or "+hostLike)
	flag.StringVar(&s.run, "run", "", "run only the tests that match, as go test does")
	flag.StringVar(&s.skip, "skip", "", "leave out the tests that match, as go test does")
	flag.IntVar(&s.patience, "patience", 10, "what the tests' deadlines are multiplied by")
	flag.DurationVar(&s.timeout, "timeout", 2*time.Hour, "end the machine after this time")
	flag.StringVar(&s.memory, "memory", "4G", "memory of the machine")
	flag.Parse()
	s.packages = flag.Args()
	if s.kernel == "" || len(s.packages) == 0 {
		fmt.Fprintln(os.Stderr, "usage: vm -kernel 6.1|6.12|"+hostLike+" [flags] package...")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	ok, err := testOn(ctx, s)
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
	}
	if err != nil || !ok {
		os.Exit(1)
	}
}

// testOn reports whether all tests have passed.
func testOn(ctx context.Context, s settings) (bool, error) {
	build, err := filepath.Abs("build")
	if err != nil {
		return false, err
	}
	a, err := architecture(s.arch)
	if err != nil {
		return false, err
	}
	a.cpu = cmp.Or(s.cpu, a.cpu)
	p, err := unpackParts(build, a, s.kernel)
	if err != nil {
		return false, err
	}
	share := filepath.Join(build, "vm", s.kernel+"-"+a.name)
	tests, err := compile(s.packages, a.name, share)
	if err != nil {
		return false, err
	}
	script, err := guestScript(tests, p.kernel, s)
	if err != nil {
		return false, err
	}
	fmt.Printf("Linux %s: %s, deadlines times %d\n", p.kernel.release, strings.Join(s.packages, " "), s.patience)
	start := time.Now()
	m := machine{parts: p, arch: a, share: share, memory: s.memory}
	failure := m.run(ctx, script, s.timeout)
	ok := report(os.Stdout, tests, share)
	fmt.Printf("Linux %s: %s\n", p.kernel.release, time.Since(start).Round(time.Second))
	return ok, failure
}

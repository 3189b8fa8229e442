// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// machine is one that boots, runs a script, and is gone.
type machine struct {
	parts  // of these it sees the root, read-only
	arch   arch
	share  string // a directory that it sees as /mnt, and may write to
	memory string
}

//go:embed guest.sh
var guest string

// guestScript is what the machine does: all tests, one after the other.
func guestScript(tests []test, k kernel, s settings) (string, error) {
	root, err := os.Getwd()
	if err != nil {
		return "", err
	}
	modules, err := filepath.Rel(root, k.dir)
	if err != nil {
		return "", err
	}
	var script strings.Builder
	fmt.Fprintf(&script, "kernel=%s\npatience=%d\ntimeout=%s\n", modules, s.patience, s.timeout)
	script.WriteString(guest)
	for _, t := range tests {
		fmt.Fprintf(&script, "run %s %s -test.run=%s -test.skip=%s\n", t.name, t.dir, quote(s.run), quote(s.skip))
	}
	return script.String(), nil
}

func quote(arg string) string { return "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'" }

// The command line that virtme-ng passes it on is short. Tests find the sources at /srv, because
// those below /tmp here are out of sight there.
const firstScript = `mount -t 9p -o trans=virtio,version=9p2000.L,msize=512000 share /mnt &&
mount -t 9p -o ro,trans=virtio,version=9p2000.L,msize=512000 sources /srv && bash /mnt/guest.sh`

// run boots the machine, and waits for its end or ends it.
func (m machine) run(ctx context.Context, script string, timeout time.Duration) error {
	if err := os.WriteFile(filepath.Join(m.share, "guest.sh"), []byte(script), 0o644); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for try := 1; ; try++ {
		err := m.boot(ctx)
		_, notStarted := os.Stat(filepath.Join(m.share, "started"))
		switch {
		case errors.Is(ctx.Err(), context.Canceled):
			return errors.New("interrupted")
		case ctx.Err() != nil:
			return fmt.Errorf("the machine was ended after %s; see %s", timeout, m.console())
		case notStarted == nil:
			return err
		case err == nil:
			err = fmt.Errorf("it has ended of itself; see %s", m.console())
		}
		// Udev gives up after two minutes, which on a busy host may be too early.
		err = fmt.Errorf("the machine has not got as far as the tests: %w", err)
		if try == boots {
			return err
		}
		fmt.Fprintf(os.Stderr, "vm: %v; another try\n", err)
	}
}

// How often a machine is booted until the script has begun.
const boots = 3

func (m machine) console() string { return filepath.Join(m.share, "console") }

// boot ends with the machine. Its console is a file in the share.
func (m machine) boot(ctx context.Context) error {
	sources, err := os.Getwd()
	if err != nil {
		return err
	}
	console, err := os.Create(m.console())
	if err != nil {
		return err
	}
	defer console.Close()
	args := []string{"-m", "virtme.commands.run", "--arch", m.arch.virtme, "--root", m.root,
		"--kimg", m.kernel.image(), "--mods", "auto", "--disable-kvm", "--force-9p", "--show-boot-console",
		"--memory", m.memory, "--cpus", "2", "--script-sh", firstScript}
	for _, kopt := range append([]string{"mitigations=off", "rcupdate.rcu_cpu_stall_suppress=1", "nowatchdog"}, m.arch.kopts...) {
		args = append(args, "--kopt", kopt)
	}
	args = append(args, "--qemu-opts",
		"-cpu", m.arch.cpu,
		"-fsdev", "local,id=share,path="+m.share+",security_model=none,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
		"-fsdev", "local,id=sources,path="+sources+",security_model=none,readonly=on,multidevs=remap",
		"-device", "virtio-9p-pci,fsdev=sources,mount_tag=sources")
	cmd := exec.CommandContext(ctx, "/usr/bin/python3", args...)
	cmd.Env = append(os.Environ(), "PYTHONPATH="+m.launcher)
	// Pipes: qemu opens them anew, and would cut a file.
	cmd.Stdout, cmd.Stderr = struct{ io.Writer }{os.Stdout}, struct{ io.Writer }{console}
	// A group of its own, which is killed with qemu in it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("the machine: %w; see %s", err, m.console())
	}
	return nil
}

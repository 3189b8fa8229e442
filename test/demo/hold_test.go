// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestHold: Ctrl-C in the terminal of `make demo HOLD=1` ends make with status 0, and nothing stays.
func TestHold(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	cmd := exec.Command("make", "demo", "HOLD=1", "BINARY="+filepath.Join(t.TempDir(), "waggle"))
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "TERM=xterm", "MAKEFLAGS=", "MAKELEVEL=")
	pty := newTerminal(t)
	pty.run(t, cmd)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	const held = "The network stays until Ctrl-C"
	for deadline := time.Now().Add(topo.Patient(5 * time.Minute)); !strings.Contains(pty.text(), held); {
		select {
		case err := <-ended:
			t.Fatalf("make demo has ended: %v\n%s", err, pty.text())
		case <-time.After(100 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			t.Fatalf("make demo shows no %q in time:\n%s", held, pty.text())
		}
	}
	if names := namespaces(t); len(names) == 0 {
		t.Fatalf("no namespace begins with %s-, although the network stays", prefix)
	}
	const ctrlC = "\x03"
	if _, err := pty.master.WriteString(ctrlC); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("make demo HOLD=1 ends with %v, want status 0\n%s", err, pty.text())
		}
	case <-time.After(topo.Patient(time.Minute)):
		t.Fatalf("make demo does not end after Ctrl-C:\n%s", pty.text())
	}
	await.Until(t, func() (string, bool) {
		names := namespaces(t)
		return "namespaces stay: " + strings.Join(names, ", "), len(names) == 0
	})
	left, err := filepath.Glob(filepath.Join(os.TempDir(), "waggle-demo-*"))
	pins, err2 := filepath.Glob("/sys/fs/bpf/*" + prefix + "*")
	if left = append(left, pins...); len(left) > 0 || errors.Join(err, err2) != nil {
		t.Errorf("files stay: %q, %v", left, errors.Join(err, err2))
	}
}

func namespaces(t *testing.T) (names []string) {
	paths, err := filepath.Glob("/run/netns/" + prefix + "-*")
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// stubGo stands for a go command on a cold machine. $BROKEN makes the compiler fail.
const stubGo = `#!/bin/bash
case $1 in
list)
	echo "go: downloading example.com/module v1.0.0" >&2
	sleep 0.5
	for i in {1..150}; do echo stale; done
	for i in {1..10}; do echo cached; done ;;
build)
	for i in {1..75}; do echo "example.com/module/p$i"; done >&2
	sleep 1
	if [ "$BROKEN" ]; then echo "main.go:1: syntax error" >&2; exit 1; fi
	while [ "$1" != -o ]; do shift; done
	printf '#!/bin/bash\necho "the demo runs: $*"\nexit 3\n' >"$2/demo"
	chmod +x "$2/demo" ;;
esac
`

// runScript returns the command that runs run.sh with stubGo.
func runScript(t *testing.T, env ...string) *exec.Cmd {
	bin := t.TempDir()
	if err := os.WriteFile(filepath.Join(bin, "go"), []byte(stubGo), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("bash", "test/demo/run.sh", t.TempDir(), "-trimpath")
	cmd.Dir = "../.."
	cmd.Env = append(append(os.Environ(), "PATH="+bin+":"+os.Getenv("PATH")), env...)
	return cmd
}

const estimate = "Building waggle and the demo: 150 packages are not in Go's cache yet. That takes about "

// TestProgressInLines: into a file, the progress of a build is lines of text.
func TestProgressInLines(t *testing.T) {
	out, err := runScript(t, "TERM=xterm").CombinedOutput()
	if strings.ContainsAny(string(out), "\x1b\r") || !strings.Contains(string(out), estimate) || !strings.Contains(string(out), "\nBuilt in ") {
		t.Errorf("output: %q", out)
	}
	if code := exitCode(err); code != 3 || !strings.Contains(string(out), "the demo runs: -waggle /") {
		t.Errorf("status %d, want the demo's: %q", code, out)
	}
}

// TestProgressOnTerminal: on a terminal one line is replaced, and the demo's status is the script's, too.
func TestProgressOnTerminal(t *testing.T) {
	pty := newTerminal(t)
	cmd := runScript(t, "TERM=xterm")
	pty.run(t, cmd)
	code := exitCode(cmd.Wait())
	const replaced = "\r\x1b[K"
	for _, want := range []string{replaced + "Downloading Go modules: 1, ", estimate, replaced + "Compiling package 75 of 150, ", replaced + "Built in ", "the demo runs: "} {
		if !pty.shows(want) {
			t.Errorf("no %q in %q", want, pty.text())
		}
	}
	if code != 3 {
		t.Errorf("status %d, want the demo's", code)
	}
}

// TestBuildFails: the compiler's errors are shown, the names of packages are not, and the demo does not run.
func TestBuildFails(t *testing.T) {
	out, err := runScript(t, "BROKEN=1").CombinedOutput()
	if exitCode(err) != 1 || !strings.Contains(string(out), "main.go:1: syntax error\n") || strings.Contains(string(out), "example.com") {
		t.Errorf("status %d: %q", exitCode(err), out)
	}
}

func exitCode(err error) int {
	if exit, ok := err.(*exec.ExitError); ok {
		return exit.ExitCode()
	}
	return 0
}

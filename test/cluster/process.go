// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"

	"github.com/waggle-lb/waggle/test/topo"
)

// Result is what a run of the command has left.
type Result struct {
	Stdout, Stderr string
	Status         int
}

// String is for messages of tests.
func (r Result) String() string {
	return fmt.Sprintf("status %d, stdout:\n%s\nstderr:\n%s", r.Status, r.Stdout, r.Stderr)
}

// Refusal is the one line by which a command says why it failed, or "" if it didn't fail like that.
func (r Result) Refusal() string {
	line, more, _ := strings.Cut(r.Stderr, "\n")
	if r.Status != 1 || r.Stdout != "" || more != "" {
		return ""
	}
	return line
}

// Run runs the command on the agent's node as it is given.
func (a *Agent) Run(args ...string) (Result, error) { return a.run(a.Node.Command(a.binary, args...)) }

// RunAs runs the command as another user, with the agent's directories.
func (a *Agent) RunAs(uid uint32, args ...string) (Result, error) {
	cmd := a.Node.Command(a.binary, append(args, "--pin-dir", a.PinDir, "--run-dir", a.RunDir)...)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uid, Gid: uid}
	return a.run(cmd)
}

// RunTwin tries to run a second agent with the flags of this one, and more.
func (a *Agent) RunTwin(more ...string) (Result, error) {
	return a.Run(slices.Concat(a.args, more)...)
}

// Pid is the agent's process id.
func (a *Agent) Pid() int { return a.cmd.Process.Pid }

func (a *Agent) run(cmd *topo.Command) (Result, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return Result{}, err
	}
	return Result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}, nil
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// Command is a process to run in a host's network namespace and cgroup, and in
// our own mount namespace, so that /sys/fs/bpf is ours (under `ip netns exec`
// it is not). It dies with this process, and at the latest when the host is
// closed.
type Command struct {
	*exec.Cmd

	host    *Host
	once    sync.Once
	waitErr error
}

// Command prepares a process. Its methods are those of exec.Cmd.
func (h *Host) Command(name string, args ...string) *Command {
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	// A grandchild that keeps the pipe open must not block Wait.
	cmd.WaitDelay = settleTime
	return &Command{Cmd: cmd, host: h}
}

// Start starts the process.
func (c *Command) Start() error {
	h := c.host
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return fmt.Errorf("%s: start %s: %w", h.Name, c.Path, errClosed)
	}
	if h.Cgroup != "" {
		dir, err := os.Open(h.Cgroup)
		if err != nil {
			return fmt.Errorf("%s: start %s: %w", h.Name, c.Path, err)
		}
		defer dir.Close()
		c.SysProcAttr.UseCgroupFD = true
		c.SysProcAttr.CgroupFD = int(dir.Fd())
	}
	if err := h.ns.run(c.Cmd.Start); err != nil {
		return fmt.Errorf("%s: start %s: %w", h.Name, c.Path, err)
	}
	h.processes[c] = struct{}{}
	return nil
}

// Wait waits for the end of the process. Unlike exec.Cmd's, it may be called
// repeatedly.
func (c *Command) Wait() error {
	c.once.Do(func() {
		c.waitErr = c.Cmd.Wait()
		c.host.mu.Lock()
		delete(c.host.processes, c)
		c.host.mu.Unlock()
	})
	return c.waitErr
}

// Run starts the process and waits for its end.
func (c *Command) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output runs the process and returns what it wrote to its standard output.
func (c *Command) Output() ([]byte, error) {
	var stdout bytes.Buffer
	c.Stdout = &stdout
	err := c.Run()
	return stdout.Bytes(), err
}

// CombinedOutput runs the process and returns what it wrote to its standard
// output and standard error.
func (c *Command) CombinedOutput() ([]byte, error) {
	var both bytes.Buffer
	c.Stdout, c.Stderr = &both, &both
	err := c.Run()
	return both.Bytes(), err
}

// Stop sends SIGTERM to a started process, kills it if it doesn't end within
// the grace time, and waits for its end.
func (c *Command) Stop(grace time.Duration) error {
	_ = c.Process.Signal(syscall.SIGTERM) // fails only if it has ended
	timer := time.AfterFunc(grace, func() { _ = c.Process.Kill() })
	defer timer.Stop()
	return c.Wait()
}

// killAll kills the processes that the host still has.
func (h *Host) killAll() {
	h.mu.Lock()
	var left []*Command
	for c := range h.processes {
		left = append(left, c)
	}
	h.mu.Unlock()
	for _, c := range left {
		_ = c.Process.Kill() // fails only if it has ended
	}
	for _, c := range left {
		_ = c.Wait() // the error is "killed"
	}
}

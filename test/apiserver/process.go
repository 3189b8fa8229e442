// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

const (
	startTimeout = 2 * time.Minute // of one process, on a machine with other work
	stopTimeout  = 20 * time.Second
	pollInterval = 50 * time.Millisecond
)

// Process is one of the control plane's.
type Process struct {
	Name    string
	LogFile string

	host   *topo.Host
	binary string
	args   []string
	ready  func(context.Context) error
	cmd    *topo.Command
}

// Start starts the process, and waits until it is ready. It may be called
// again after Stop or Kill.
func (p *Process) Start() error {
	if err := p.Launch(); err != nil {
		return err
	}
	return p.AwaitReady()
}

// Launch starts the process without waiting for it.
func (p *Process) Launch() error {
	log, err := os.OpenFile(p.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = p.host.Command(p.binary, p.args...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	return p.cmd.Start()
}

// AwaitReady polls until the process says that it is ready, or has ended.
func (p *Process) AwaitReady() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	ended := make(chan error, 1)
	cmd := p.cmd
	go func() { ended <- cmd.Wait() }()
	for last := errors.New("not asked"); ; {
		select {
		case err := <-ended:
			return fmt.Errorf("%s ended: %w; its log ends:\n%s", p.Name, err, p.LogTail())
		case <-ctx.Done():
			return fmt.Errorf("%s is not ready after %v: %w; its log ends:\n%s", p.Name, startTimeout, last, p.LogTail())
		case <-time.After(pollInterval):
		}
		if last = p.ready(ctx); last == nil {
			return nil
		}
	}
}

// Stop ends the process as a service manager would.
func (p *Process) Stop() error {
	if p.cmd == nil || p.cmd.Process == nil {
		return nil
	}
	var exit interface{ ExitCode() int } // some of them end with a status when asked to
	if err := p.cmd.Stop(stopTimeout); err != nil && !errors.As(err, &exit) {
		return fmt.Errorf("stop %s: %w", p.Name, err)
	}
	return nil
}

// Kill ends the process as a crash would.
func (p *Process) Kill() {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	_ = p.cmd.Process.Signal(syscall.SIGKILL) // fails only if it has ended
	_ = p.cmd.Wait()
}

// LogTail is the last lines of the process's log.
func (p *Process) LogTail() string {
	raw, err := os.ReadFile(p.LogFile)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

func (cp *ControlPlane) process(name, binary string, args []string, ready func(context.Context) error) *Process {
	return &Process{
		Name: name, LogFile: filepath.Join(cp.dir, name+".log"),
		host: cp.host, binary: binary, args: args, ready: ready,
	}
}

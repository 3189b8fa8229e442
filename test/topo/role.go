// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	roleVariable = "WAGGLE_TOPO_ROLE"
	serverRole   = "server"
	clientRole   = "client"
)

// Main does the work of a server or client process, and exits, if this process
// was started as one. It must be the first thing in main or TestMain.
func Main() {
	var err error
	switch role := os.Getenv(roleVariable); role {
	case "":
		return
	case serverRole:
		err = serverMain(os.Args[1])
	case clientRole:
		err = clientMain(os.Stdin, os.Stdout)
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "topo: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// child is a re-execution of this binary in a role. It ends when its standard
// input does.
type child struct {
	*Command
	stdin  io.WriteCloser
	stdout *bufio.Reader
	stderr *complaints
}

func (h *Host) startRole(role string, config any) (*child, error) {
	encoded, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	cmd := h.Command("/proc/self/exe", string(encoded))
	cmd.Args[0] = "waggle-topo-" + role
	cmd.Env = append(os.Environ(), roleVariable+"="+role)
	c := &child{Command: cmd, stderr: &complaints{}}
	cmd.Stderr = c.stderr
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.stdout = bufio.NewReader(stdout)
	return c, cmd.Start()
}

// killAfter kills the child unless the returned function is called in time.
func (c *child) killAfter(timeout time.Duration) (cancel func()) {
	timer := time.AfterFunc(timeout, func() { _ = c.Process.Kill() })
	return func() { timer.Stop() }
}

// stop ends the child, and returns an error if it had failed before.
func (c *child) stop() error {
	defer c.killAfter(settleTime)()
	_ = c.stdin.Close() // fails only if closed already
	if err := c.Wait(); err != nil {
		return c.failure(err)
	}
	return nil
}

func (c *child) failure(err error) error {
	return errors.Join(fmt.Errorf("%s in %s: %w", c.Args[0], c.host.Name, err), c.stderr.asError())
}

// complaints keeps the first output of a process, which shows the cause of a
// failure.
type complaints struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (c *complaints) Write(p []byte) (int, error) {
	const limit = 16 << 10
	c.mu.Lock()
	defer c.mu.Unlock()
	if room := limit - c.buffer.Len(); room > 0 {
		c.buffer.Write(p[:min(room, len(p))])
	}
	return len(p), nil
}

func (c *complaints) asError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.buffer.Len() == 0 {
		return nil
	}
	return errors.New(c.buffer.String())
}

// SPDX-License-Identifier: Apache-2.0

// Package cluster runs waggle agents on the nodes of a test topology, from a directory of
// manifests or with an API server, as an operator would: by the command.
package cluster

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// Agent is a waggle agent on a node.
type Agent struct {
	Node    *topo.Node
	PinDir  string
	RunDir  string
	LogFile string

	binary string
	args   []string
	cmd    *topo.Command
}

// AgentOptions are what agents may differ in.
type AgentOptions struct {
	Binary     string // see Build
	Manifests  string
	Kubeconfig string // instead of Manifests
	Dir        string // for the agent's status and log
	PinDir     string // default: by the network's and the node's names
	Args       []string
}

// NewAgent prepares an agent; Start starts it.
func NewAgent(n *topo.Network, node *topo.Node, opts AgentOptions) *Agent {
	name := n.Prefix + "-" + node.Name
	a := &Agent{
		Node:    node,
		PinDir:  opts.PinDir,
		RunDir:  filepath.Join(opts.Dir, node.Name),
		LogFile: filepath.Join(opts.Dir, node.Name+".log"),
		binary:  opts.Binary,
	}
	if a.PinDir == "" {
		a.PinDir = "/sys/fs/bpf/waggle-" + name
	}
	from := []string{"--manifests", opts.Manifests}
	if opts.Kubeconfig != "" {
		from = []string{"--kubeconfig", opts.Kubeconfig}
	}
	a.args = slices.Concat([]string{"agent"}, from, []string{
		"--node-name", node.Name,
		"--pin-dir", a.PinDir, "--run-dir", a.RunDir, "--cgroup", node.Cgroup, "--log-level", "debug",
	}, opts.Args)
	return a
}

// Use has the agent run another build of the command from its next start on.
func (a *Agent) Use(binary string) { a.binary = binary }

var startTimeout = topo.Patient(30 * time.Second)

// Start starts the agent, with more flags for this time only, and waits until it has synced.
func (a *Agent) Start(more ...string) error {
	if err := a.Launch(more...); err != nil {
		return err
	}
	return a.await(startTimeout, "the first sync", func(s *status.Status) bool {
		return s.PID == a.cmd.Process.Pid && s.Proxy.Synced && !s.Proxy.LastSync.IsZero()
	})
}

// Launch starts the agent without waiting for it.
func (a *Agent) Launch(more ...string) error {
	log, err := os.OpenFile(a.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	a.cmd = a.Node.Command(a.binary, slices.Concat(a.args, more)...)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	return a.cmd.Start()
}

// await polls the status file, which is the only thing that an agent shows of itself.
func (a *Agent) await(timeout time.Duration, what string, done func(*status.Status) bool) error {
	deadline := time.Now().Add(timeout)
	for time.Now().Before(deadline) {
		if s, err := status.Read(a.RunDir); err == nil && done(s) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return fmt.Errorf("agent on %s: no sign of %s within %v; its log ends:\n%s", a.Node.Name, what, timeout, a.logTail())
}

// Await waits until the agent's status satisfies a condition.
func (a *Agent) Await(what string, done func(*status.Status) bool) error {
	return a.await(startTimeout, what, done)
}

func (a *Agent) logTail() string {
	raw, _ := os.ReadFile(a.LogFile)
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	return strings.Join(lines[max(0, len(lines)-20):], "\n")
}

// Stop ends the agent as a service manager would.
func (a *Agent) Stop() error { return a.cmd.Stop(topo.Patient(10 * time.Second)) }

// Kill ends the agent as a crash would, if it was ever started.
func (a *Agent) Kill() {
	if a.cmd == nil || a.cmd.Process == nil {
		return
	}
	_ = a.cmd.Process.Signal(syscall.SIGKILL)
	_ = a.cmd.Wait()
}

// Cleanup removes what the agent left, whatever state it is in.
func (a *Agent) Cleanup() error {
	quiet := logrus.New()
	quiet.SetOutput(io.Discard)
	return a.Node.Do(func() error {
		_, err := loader.Cleanup(a.PinDir, logrus.NewEntry(quiet))
		return err
	})
}

// Command prepares a subcommand of waggle, to be run on the agent's node.
func (a *Agent) Command(args ...string) *topo.Command {
	return a.Node.Command(a.binary, append(args, "--pin-dir", a.PinDir, "--run-dir", a.RunDir)...)
}

// CLI runs a subcommand of waggle on the agent's node.
func (a *Agent) CLI(args ...string) (string, error) {
	out, err := a.Command(args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("waggle %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// Counters reads what the agent's datapath has counted, as "hook/verdict" -> packets.
func (a *Agent) Counters() (Counters, error) {
	p, err := loader.Open(a.PinDir)
	if err != nil {
		return nil, err
	}
	defer p.Close()
	all, err := maps.ReadCounters(p)
	if err != nil {
		return nil, err
	}
	out := Counters{}
	for _, c := range all {
		out[bpf.HookName(c.Hook)+"/"+bpf.VerdictName(c.Verdict)] = c.Packets
	}
	return out, nil
}

// Counters are packets by "hook/verdict".
type Counters map[string]uint64

// Since returns what was counted after an earlier reading.
func (c Counters) Since(before Counters) Counters {
	out := Counters{}
	for k, v := range c {
		if v > before[k] {
			out[k] = v - before[k]
		}
	}
	return out
}

// BinaryVariable names an environment variable: the path of the command, where it is not to be
// compiled.
const BinaryVariable = "WAGGLE_BINARY"

// Build compiles the command into a directory, with build tags if any are given, and returns its
// path. Without tags it may have been compiled already.
func Build(dir string, tags ...string) (string, error) {
	if binary := os.Getenv(BinaryVariable); binary != "" && len(tags) == 0 {
		return binary, nil
	}
	binary := filepath.Join(dir, "waggle")
	out, err := exec.Command("go", "build", "-tags", strings.Join(tags, ","), "-o", binary, "github.com/waggle-lb/waggle/cmd/waggle").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building waggle: %w: %s", err, out)
	}
	return binary, nil
}

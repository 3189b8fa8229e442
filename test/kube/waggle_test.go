// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"os"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// smallMaps are quicker to make and to read than those of a real node.
const smallMaps = "--map-size=flows4=65536,flows6=65536,backends=8192,slots=65536"

// newAgents prepares an agent for each node. What they leave is removed with the test.
func (s *setup) newAgents(t *testing.T, args ...string) []*cluster.Agent {
	t.Helper()
	binary, err := buildWaggle()
	check(t, err)
	opts := cluster.AgentOptions{
		Binary: binary, Kubeconfig: s.kubeconfig(t, "waggle", s.deployed(t)), Dir: s.dir,
		Args: append([]string{smallMaps, "--xdp=off"}, args...),
	}
	var all []*cluster.Agent
	for _, node := range s.Nodes {
		a := cluster.NewAgent(s.Network, node, opts)
		t.Cleanup(func() {
			if t.Failed() {
				log, _ := os.ReadFile(a.LogFile)
				status, _ := a.CLI("status")
				t.Logf("agent on %s:\n%s\n%s", a.Node.Name, lastLines(string(log), 60), status)
			}
			a.Kill()
			check(t, a.Cleanup())
		})
		all = append(all, a)
	}
	return all
}

// startWaggle runs waggle on all nodes, until stop, which leaves nothing of it.
// It has synced when startWaggle returns.
func (s *setup) startWaggle(t *testing.T) (stop func()) {
	t.Helper()
	agents := s.newAgents(t)
	for _, a := range agents {
		check(t, a.Start())
	}
	return func() {
		t.Helper()
		for _, a := range agents {
			check(t, a.Stop())
			check(t, a.Cleanup())
		}
	}
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

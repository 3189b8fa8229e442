// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestKubeProxyLeftovers, of contract 36: an agent warns of what kube-proxy has left. A cleanup
// removes it beside the running agent, and what waggle serves goes on.
func TestKubeProxyLeftovers(t *testing.T) {
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft (Debian: nftables)")
	}
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 0, "web-a", "app: web")
	c := s.addClients(t)
	agent := s.agents[0]
	for _, family := range []string{"ip", "ip6"} {
		check(t, s.Nodes[0].Command("nft", "add", "table", family, "kube-proxy").Run())
	}
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	check(t, agent.Await("a warning of kube-proxy's tables", func(s *status.Status) bool {
		return slices.ContainsFunc(s.Warnings, func(w string) bool {
			return strings.HasPrefix(w, "kube-proxy: ") && strings.Contains(w, "nftables table ip6 kube-proxy")
		})
	}))

	out, err := agent.CLI("cleanup", "--kube-proxy")
	check(t, err)
	if want := "removed nftables table ip kube-proxy\nremoved nftables table ip6 kube-proxy\n"; out != want {
		t.Errorf("got %q, want %q", out, want)
	}
	if left, err := s.Nodes[0].Command("nft", "list", "tables").Output(); err != nil || strings.Contains(string(left), "kube-proxy") {
		t.Errorf("left: %s (%v)", left, err)
	}
	checkServed(t, web, s.ways(c))
	if again, err := agent.CLI("cleanup", "--kube-proxy"); err != nil || again != "" {
		t.Errorf("once more: %v, %q", err, again)
	}
}

// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// needNFT skips the test if the owner's rules can't be written.
func needNFT(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft (Debian: nftables)")
	}
}

var nftCounter = regexp.MustCompile(`packets (\d+)`)

// counted reads the counter NAME of the table inet owner.
func counted(t *testing.T, node *topo.Node, name string) int {
	t.Helper()
	out, err := node.Command("nft", "list", "counter", "inet", "owner", name).Output()
	check(t, err)
	found := nftCounter.FindSubmatch(out)
	if found == nil {
		t.Fatalf("nft lists no counter %s: %s", name, out)
	}
	n, err := strconv.Atoi(string(found[1]))
	check(t, err)
	return n
}

// countForwarded counts the packets that a node forwards to a pod.
func countForwarded(t *testing.T, node *topo.Node, pod *topo.Pod) {
	t.Helper()
	nft(t, node.Host, fmt.Sprintf(`table inet owner {
	counter forwarded { }
	chain forward {
		type filter hook forward priority filter; policy accept;
		ip daddr %s counter name forwarded
		ip6 daddr %s counter name forwarded
	}
}`, pod.IP4, pod.IP6))
}

// TestExpressOff, of contract 58: with --express=off all requests to other nodes pass the chains of
// the node, and are filtered there. With auto they pass none.
func TestExpressOff(t *testing.T) {
	needNFT(t)
	for _, m := range []mode{modes[0], modes[1]} {
		t.Run(m.name, func(t *testing.T) { expressOff(t, m) })
	}
}

func expressOff(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	node, agent := s.Nodes[0], s.agents[0]
	countForwarded(t, node, pod)
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	nodePorts := s.ways(c)[:2]
	checkServed(t, web, nodePorts)
	if n := counted(t, node, "forwarded"); n != 0 {
		t.Errorf("auto: the chain forward saw %d packets, want none", n)
	}

	check(t, agent.Stop())
	check(t, agent.Start("--express=off", "--xdp=auto"))
	check(t, agent.Await("no device on the express way", func(s *status.Status) bool {
		for _, d := range s.Devices {
			if d.Express || d.XDP == "native" {
				return false
			}
		}
		return len(s.Devices) > 0
	}))
	before, err := agent.Counters()
	check(t, err)
	checkServed(t, web, nodePorts)
	if n := counted(t, node, "forwarded"); n == 0 {
		t.Error("off: the chain forward saw no packet")
	}
	after, err := agent.Counters()
	check(t, err)
	for k, n := range after.Since(before) {
		if strings.HasPrefix(k, "xdp/") {
			t.Errorf("off: %d packets at %s", n, k)
		}
	}
	nft(t, node.Host, "insert rule inet owner forward meta iifname \"eth0\" drop")
	for _, v6 := range bothFamilies {
		at := addrOf(node.Host, v6)
		find(t, "laptop", c.laptop, web.nodePort(at, http), web.nodePort(at, dns), timedOut)
	}
}

// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
)

// about returns the messages with a prefix.
func about(messages []string, prefix string) []string {
	return slices.DeleteFunc(slices.Clone(messages), func(m string) bool { return !strings.HasPrefix(m, prefix) })
}

// restartLooking restarts node-1's agent, with a look at its surroundings every second.
func restartLooking(t *testing.T, s *setup, more ...string) {
	t.Helper()
	check(t, s.agents[0].Stop())
	check(t, s.agents[0].Start(append(more, "--sync-period=1s")...))
}

// TestForwardPolicyDrop, of contract 49: a chain FORWARD with policy drop, as docker leaves it. If
// a CNI plugin's rules accept its pods' packets, all services work, and nothing is reported. If
// not, endpoints on this node can't be reached, and the chain is named.
func TestForwardPolicyDrop(t *testing.T) {
	needNFT(t)
	s, c, services := twoServices(t, modes[1])
	node, agent := s.Nodes[0], s.agents[0]
	restartLooking(t, s)
	docker := `table %[1]s filter {
	chain DOCKER-USER { return; }
	chain pods { }
	chain FORWARD {
		type filter hook forward priority filter; policy drop;
		jump DOCKER-USER
		oifname "docker0" ct state established,related accept
		jump pods
	}
}
`
	nft(t, node.Host, fmt.Sprintf(docker, "ip")+fmt.Sprintf(docker, "ip6"))
	const chain = "chain ip filter FORWARD (policy drop) "
	check(t, agent.Await("a warning of the chain", func(s *status.Status) bool {
		found := about(s.Warnings, chain)
		return len(found) == 1 && strings.Contains(found[0], "blocks packets to or from endpoints on this node: 10.244.0.") &&
			len(about(s.Warnings, "chain ip6 filter FORWARD (policy drop) blocks")) == 1
	}))
	expectTold(t, s, "Problems", chain+"blocks", `waggle_findings{about="chains",severity="warning"} 2`)
	for _, v6 := range bothFamilies {
		at := addrOf(node.Host, v6)
		find(t, "laptop", c.laptop, services[0].nodePort(at, http), services[0].nodePort(at, dns), timedOut)
	}

	accept := `add rule %[1]s filter pods %[1]s daddr %[2]s accept
add rule %[1]s filter pods %[1]s saddr %[2]s accept
`
	nft(t, node.Host, fmt.Sprintf(accept, "ip", "10.244.0.0/16")+fmt.Sprintf(accept, "ip6", "fd00:10:244::/48"))
	check(t, agent.Await("no warning any more", func(s *status.Status) bool {
		return len(about(s.Warnings, "chain ")) == 0
	}))
	for _, svc := range services {
		checkServed(t, svc, s.ways(c))
	}
	st, err := status.Read(agent.RunDir)
	check(t, err)
	if found := about(st.Notices, "chain "); len(found) > 0 {
		t.Errorf("notices about chains that let all through: %q", found)
	}

	nft(t, node.Host, "flush chain ip filter pods\nadd rule ip filter pods meta mark 0x10000 accept")
	check(t, agent.Await("a notice of what can't be known", func(s *status.Status) bool {
		return len(about(s.Notices, chain+"may block")) == 1 && len(about(s.Warnings, "chain ")) == 0
	}))
}

// TestOwnersFilters, of contract 58: rules of the node's owner that service traffic does not pass,
// or passes only after its translation, are reported as notices.
func TestOwnersFilters(t *testing.T) {
	needNFT(t)
	s, c, services := twoServices(t, modes[1])
	node, agent := s.Nodes[0], s.agents[0]
	restartLooking(t, s)
	remote := services[1]
	ports := fmt.Sprint(remote.nodePort(node.IP4, http).Port())
	nft(t, node.Host, `table ip raw {
	chain PREROUTING { type filter hook prerouting priority raw; tcp dport `+ports+` drop; }
}
table inet owner {
	chain forward { type filter hook forward priority filter; ip saddr `+s.Laptop.IP4.String()+` drop; }
	chain input { type filter hook input priority filter; policy drop; iifname "lo" accept; meta l4proto { icmp, icmpv6 } accept; tcp dport 22 accept; }
	chain harmless { type filter hook prerouting priority mangle; ct state invalid drop; tcp dport 22 meta mark set 1; iifname "docker0" drop; }
}`)
	raw, forward := "chain ip raw PREROUTING: its rules for packets to services, such as 0.0.0.0:"+ports+"/TCP, have no effect", "chain inet owner forward: it would drop"
	check(t, agent.Await("notices of both chains", func(s *status.Status) bool {
		return len(about(s.Notices, raw)) == 1 && len(about(s.Notices, forward)) == 1 && len(about(s.Notices, "chain ")) == 2
	}))
	expectTold(t, s, "Notices", raw, `waggle_findings{about="chains",severity="notice"} 2`)
	// The rules have no effect: the laptop is served.
	checkServed(t, remote, s.ways(c)[:2])

	restartLooking(t, s, "--express=off")
	check(t, agent.Await("a notice of the first chain alone", func(s *status.Status) bool {
		return len(about(s.Notices, raw)) == 1 && len(about(s.Notices, "chain ")) == 1
	}))
	find(t, "laptop", c.laptop, remote.nodePort(node.IP4, http), remote.nodePort(node.IP4, dns), timedOut)
}

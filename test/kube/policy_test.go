// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestRow35NetworkPolicy puts rules, as a CNI plugin would make of a policy, between the node and
// its pods. They name the endpoint's address and port, and the client's address, which they see
// wherever a flow to a local endpoint comes from.
func TestRow35NetworkPolicy(t *testing.T) {
	s := newSetup(t)
	svc := service{name: "guarded", number: 1, pods: []string{here}}
	pod := s.addPod(t, 0, here, map[string]string{svc.selects(): "yes"})
	s.addService(t, svc.object(), 1)
	clients := s.addStableClients(t)
	for _, a := range s.newAgents(t) {
		check(t, a.Start())
	}
	node := s.Nodes[0]
	for _, v6 := range bothFamilies {
		family, nodeAddr, denied, endpoint := "ip", node.IP4, s.Laptop.IP4, pod.IP4
		if v6 {
			family, nodeAddr, denied, endpoint = "ip6", node.IP6, s.Laptop.IP6, pod.IP6
		}
		asked := []struct {
			client *topo.Client
			to     netip.AddrPort
			denied bool
		}{
			{clients.laptop, netip.AddrPortFrom(nodeAddr, svc.nodePort()), true},
			{clients.laptop, netip.AddrPortFrom(svc.lbIP(v6), servicePort), true},
			{clients.pod, netip.AddrPortFrom(svc.clusterIP(v6), servicePort), false},
			{clients.sandboxed, netip.AddrPortFrom(svc.clusterIP(v6), servicePort), false},
		}
		for _, a := range asked {
			if r := a.client.Get(topo.Request{To: a.to}); !r.OK() {
				t.Errorf("%s, with no policy: %s", a.to, r)
			}
		}
		check(t, policy(node, fmt.Sprintf("%[1]s saddr %[2]s %[1]s daddr %[3]s tcp dport 8080 drop", family, denied, endpoint)))
		for _, a := range asked {
			r := a.client.Get(topo.Request{To: a.to, Timeout: time.Second})
			if a.denied && !r.Timeout || !a.denied && !r.OK() {
				t.Errorf("%s, denied: %v: %s", a.to, a.denied, r)
			}
		}
	}
}

// policy adds a rule to what the node forwards.
func policy(node *topo.Node, rule string) error {
	for _, command := range []string{
		"add table inet cni",
		"add chain inet cni forward { type filter hook forward priority 0; }",
		"add rule inet cni forward " + rule,
	} {
		if out, err := node.Command("nft", command).CombinedOutput(); err != nil {
			return fmt.Errorf("nft %s: %w: %s", command, err, out)
		}
	}
	return nil
}

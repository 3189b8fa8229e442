// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// soon is when a client gives up whose packets are dropped.
const soon = 300 * time.Millisecond

// TestAffinity, of contract 27: a client stays with a pod, by packets and by sockets, over a
// restart of the agent, until the pod is gone.
func TestAffinity(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1, policy: "sessionAffinity: ClientIP"}
	s.addService(t, web)
	var pods []*topo.Pod
	for i, name := range []string{"web-a", "web-b", "web-c", "web-d"} {
		pods = append(pods, s.addPod(t, i%2, name, "app: web"))
	}
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitPods(t, web, pods...)
	ways := append(s.ways(c), way{"node-process", client(t, s.Nodes[0].Host), service.clusterIP})

	first := stays(t, web, ways)
	agent := s.agents[0]
	check(t, agent.Stop())
	check(t, agent.Start())
	for key, pod := range stays(t, web, ways) {
		if first[key] != pod {
			t.Errorf("%s: %s before the agent's restart, %s after", key, first[key], pod)
		}
	}
	for _, v6 := range bothFamilies {
		for _, p := range []string{"tcp", "udp"} {
			node, lb := first["nodeport/"+familyName(v6)+"/"+p], first["lb/"+familyName(v6)+"/"+p]
			if node != lb {
				t.Errorf("%s, %s: the laptop is led to %s by the node port, to %s by the load balancer's address", familyName(v6), p, node, lb)
			}
		}
	}

	gone := first["nodeport/"+familyName(false)+"/tcp"]
	kept := len(pods)
	for i, pod := range pods {
		if pod.Name == gone {
			check(t, s.manifests.Remove("pod-"+pod.Name+".yaml"))
			pods = append(pods[:i:i], pods[i+1:]...)
		}
	}
	if len(pods) != kept-1 {
		t.Fatalf("no pod is called %q", gone)
	}
	s.awaitPods(t, web, pods...)
	for key, pod := range stays(t, web, ways) {
		if pod == gone {
			t.Errorf("%s: still led to %s", key, gone)
		}
		if first[key] != gone && first[key] != pod {
			t.Errorf("%s: led from %s, which is well, to %s", key, first[key], pod)
		}
	}
}

// stays checks that each client is led to one pod, and returns the pods.
func stays(t *testing.T, svc service, ways []way) map[string]string {
	t.Helper()
	pod := map[string]string{}
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			for range 12 {
				for proto, reply := range map[string]topo.Reply{
					"tcp":         w.client.Get(topo.Request{To: w.to(svc, http, v6)}),
					"udp":         w.client.UDPConnected(topo.Request{To: w.to(svc, dns, v6)}),
					"unconnected": w.client.UDPUnconnected(topo.Request{To: w.to(svc, dns, v6)}),
				} {
					if proto == "unconnected" {
						proto = "udp"
					}
					key := fmt.Sprintf("%s/%s/%s", w.name, familyName(v6), proto)
					check(t, reply.Error())
					if was, ok := pod[key]; ok && was != reply.Pod {
						t.Errorf("%s: %s, then %s", key, was, reply.Pod)
					}
					pod[key] = reply.Pod
				}
			}
		}
	}
	return pod
}

// outcome is the expected result for a client.
type outcome string

const (
	served    outcome = "served"
	refused   outcome = "refused"
	timedOut  outcome = "dropped" // no answer
	failsOnce outcome = "failed"  // the call fails at once, as if there were no answer
)

func outcomeOf(r topo.Reply) outcome {
	switch {
	case r.OK():
		return served
	case r.Errno == "ECONNREFUSED":
		return refused
	case r.Errno == "ETIMEDOUT":
		return failsOnce
	case r.Timeout:
		return timedOut
	}
	return outcome(r.String())
}

// find sends to an address by all kinds of sockets.
func find(t *testing.T, client string, c *topo.Client, tcp, udp netip.AddrPort, want outcome) {
	t.Helper()
	for how, reply := range map[string]topo.Reply{
		"tcp":             c.Connect(topo.Request{To: tcp, Timeout: soon}),
		"udp-connected":   c.UDPConnected(topo.Request{To: udp, Timeout: soon}),
		"udp-unconnected": c.UDPUnconnected(topo.Request{To: udp, Timeout: soon}),
	} {
		if how == "udp-unconnected" && want == refused && client != "inside" && client != "node" {
			continue // the kernel reports no ICMP error to an unconnected socket
		}
		if got := outcomeOf(reply); got != want {
			t.Errorf("%s, %s to %s: %s, want %s (%s)", client, how, tcp, got, want, reply)
		}
	}
}

// TestSourceRanges, of contract 18: only clients in the ranges reach a load balancer's addresses. A
// packet hook checks this, or for processes of the node a socket hook.
func TestSourceRanges(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[0])
	c := s.addClients(t)
	process := client(t, s.Nodes[0].Host)
	hosts := []*topo.Host{s.Laptop, c.insidePod.Host, c.outsidePod.Host, s.Nodes[0].Host}
	names := []string{"laptop", "inside", "outside", "node"}
	clients := []*topo.Client{c.laptop, c.inside, c.outside, process}
	services := make([]service, len(hosts))
	for i, h := range hosts {
		services[i] = service{name: "for-" + names[i], app: "web", number: i + 1,
			policy: fmt.Sprintf("loadBalancerSourceRanges: [\" %s/32\", \"%s/128 \"]", h.IP4, h.IP6)}
		s.addService(t, services[i])
	}
	s.addPod(t, 1, "web", "app: web")
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	for of, svc := range services {
		for client, c := range clients {
			for _, v6 := range bothFamilies {
				want := served
				if client != of && names[client] == "node" {
					want = failsOnce
				} else if client != of {
					want = timedOut
				}
				find(t, names[client], c, svc.lb(http, v6), svc.lb(dns, v6), want)
				// No other frontend is guarded.
				if names[client] != "laptop" {
					find(t, names[client], c, svc.clusterIP(http, v6), svc.clusterIP(dns, v6), served)
				}
				node := addrOf(s.Nodes[0].Host, v6)
				find(t, names[client], c, svc.nodePort(node, http), svc.nodePort(node, dns), served)
			}
		}
	}
	// A process that has chosen an address counts as a client with that address.
	for _, v6 := range bothFamilies {
		source := netip.MustParseAddr("127.0.0.1")
		if v6 {
			source = netip.IPv6Loopback()
		}
		reply := process.Connect(topo.Request{To: services[3].lb(http, v6), Source: source, Timeout: soon})
		if got := outcomeOf(reply); got != failsOnce {
			t.Errorf("from %s to its node's service: %s, want %s", source, got, failsOnce)
		}
	}
}

// TestPolicyDrops, of contract 19: a service for local clients without a local endpoint gives no
// answer, to packets and to sockets.
func TestPolicyDrops(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1, policy: "internalTrafficPolicy: Local"}
	s.addService(t, web)
	s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	process, there := client(t, s.Nodes[0].Host), client(t, s.Nodes[1].Host)
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	before, err := s.agents[0].Counters()
	check(t, err)
	for _, v6 := range bothFamilies {
		tcp, udp := web.clusterIP(http, v6), web.clusterIP(dns, v6)
		find(t, "inside", c.inside, tcp, udp, timedOut)
		find(t, "outside", c.outside, tcp, udp, timedOut)
		find(t, "node", process, tcp, udp, failsOnce)
		find(t, "node", there, tcp, udp, served)
		find(t, "inside", c.inside, web.lb(http, v6), web.lb(dns, v6), served)
	}
	now, err := s.agents[0].Counters()
	check(t, err)
	for _, where := range []string{"tc-pod/drop-no-local-endpoint", "sock/drop-no-local-endpoint"} {
		if now.Since(before)[where] == 0 {
			t.Errorf("%s counts nothing: %v", where, now.Since(before))
		}
	}
}

// TestClusterIPs, of contracts 21 and 22: a port that no service has is refused on an address that
// a service has. An address of the service CIDRs that no service has gives no answer.
func TestClusterIPs(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { findClusterIPs(t, m) })
	}
}

func findClusterIPs(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 1, "web", "app: web")
	c := s.addClients(t)
	process := client(t, s.Nodes[0].Host)
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("10.96.0.0/16"), s.Nodes[0].IP4))
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("fd00:10:96::/112"), s.Nodes[0].IP6))
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	unused, absent := port{"unused", 999, 9}, service{name: "absent", number: 77}
	for _, v6 := range bothFamilies {
		for client, c := range map[string]*topo.Client{"laptop": c.laptop, "inside": c.inside, "outside": c.outside, "node": process} {
			find(t, client, c, web.clusterIP(http, v6), web.clusterIP(dns, v6), served)
			find(t, client, c, web.clusterIP(unused, v6), web.clusterIP(unused, v6), refused)
			silent := timedOut
			if client == "node" {
				silent = failsOnce
			}
			find(t, client, c, absent.clusterIP(http, v6), absent.clusterIP(dns, v6), silent)
		}
	}
}

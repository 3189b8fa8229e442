// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestOneHolder: of three agents exactly one answers for an address, which is served through it. It moves when its agent is
// killed, when its link is cut and when a node joins, it doesn't when the agent is restarted, and at no time do two answer.
func TestOneHolder(t *testing.T) {
	for _, xdp := range []bool{true, false} {
		t.Run(fmt.Sprintf("xdp=%v", xdp), func(t *testing.T) { testOneHolder(t, xdp) })
	}
}

func testOneHolder(t *testing.T, xdp bool) {
	s := newSetup(t, 3, xdp)
	for i := range s.Nodes {
		s.addPod(t, i, fmt.Sprint("web-", i))
	}
	s.addService(t, "web")
	start(t, s.agents...)
	addrs := s.addresses(t, s.agents[0], "web")
	prober(t, s.Laptop, addrs...)
	client, err := s.Laptop.Client()
	check(t, err)
	t.Cleanup(func() { check(t, client.Close()) })
	serves := func(when string) {
		t.Helper()
		for _, a := range addrs {
			began, tries := time.Now(), 0
			await.Until(t, func() (string, bool) {
				tries++
				reply := client.Get(topo.Request{To: netip.AddrPortFrom(a, 80), Timeout: time.Second})
				return fmt.Sprintf("%s: %s: %s", when, a, reply), reply.OK()
			})
			t.Logf("%s: %s is served after %v, request %d", when, a, time.Since(began).Round(time.Millisecond), tries)
		}
	}
	at := map[netip.Addr]string{}
	for _, a := range addrs {
		at[a] = s.awaitHolder(t, a, s.agents)
	}
	serves("at first")
	time.Sleep(500 * time.Millisecond)
	for _, a := range addrs {
		s.expectSettled(t, a, at[a])
	}
	first := addrs[0]

	began := time.Now()
	agent, others := s.others(at[first])
	agent.Kill()
	next := s.awaitHolder(t, first, others, at[first])
	serves("killed")
	s.expectMoves(t, "killed", first, began, at[first], next)

	began = time.Now()
	start(t, agent)
	back := s.awaitHolder(t, first, s.agents, next)
	if back != at[first] {
		t.Errorf("the node that has joined again was chosen before: it should be %s, and is %s", at[first], back)
	}
	serves("joined")
	s.expectMoves(t, "joined", first, began, next, back)

	began = time.Now()
	check(t, agent.Stop())
	time.Sleep(3 * time.Second)
	start(t, agent)
	time.Sleep(2 * time.Second)
	serves("restarted")
	s.expectMoves(t, "restarted", first, began, back)
	if now := s.awaitHolder(t, first, s.agents); now != back {
		t.Errorf("a restart has moved %s from %s to %s", first, back, now)
	}

	s.setLink(t, back, false)
	cut := time.Now()
	next = s.awaitHolder(t, first, others, back)
	serves("cut")
	s.setLink(t, back, true)
	s.awaitHolder(t, first, s.agents, next)
	serves("mended")
	s.expectMoves(t, "cut and mended", first, cut, next, back)
	s.neverTwo(t)
}

// TestLocal: an address of a Service with externalTrafficPolicy Local is where an endpoint is.
func TestLocal(t *testing.T) {
	s := newSetup(t, 3, true)
	pods := []*topo.Pod{s.addPod(t, 0, "web-0"), s.addPod(t, 1, "web-1")}
	s.addService(t, "web", "externalTrafficPolicy: Local")
	start(t, s.agents...)
	addr := s.addresses(t, s.agents[0], "web")[0]
	prober(t, s.Laptop, addr)
	at := s.awaitHolder(t, addr, s.agents)
	if at == s.Nodes[2].Name {
		t.Errorf("%s has no endpoint, and announces %s", at, addr)
	}
	began := time.Now()
	for _, pod := range pods {
		if pod.Node.Name == at {
			check(t, s.manifests.Remove("pod-"+pod.Name+".yaml"))
		}
	}
	next := s.awaitHolder(t, addr, s.agents, at)
	if next == s.Nodes[2].Name {
		t.Errorf("%s has no endpoint, and announces %s", next, addr)
	}
	time.Sleep(200 * time.Millisecond)
	s.expectMoves(t, "without its endpoint", addr, began, at, next)
	for _, pod := range pods {
		if pod.Node.Name == next {
			check(t, s.manifests.Remove("pod-"+pod.Name+".yaml"))
		}
	}
	await.Until(t, func() (string, bool) {
		node := holder(t, s.agents[0], addr)
		return "without any endpoint it stays at " + node, node == ""
	})
	s.neverTwo(t)
}

// TestConflict: an address that a host on the network has is not announced, until the host is gone.
func TestConflict(t *testing.T) {
	s := newSetup(t, 2, true)
	s.addPod(t, 0, "web")
	host, err := s.AddMachine("printer")
	check(t, err)
	taken := netip.MustParseAddr("192.168.1.250")
	check(t, host.AddAddr("eth0", netip.PrefixFrom(taken, 24)))
	mac, err := host.MAC("eth0")
	check(t, err)
	s.addService(t, "web", "loadBalancerIP: 192.168.1.250")
	s.addService(t, "other")
	start(t, s.agents...)
	addrs := s.addresses(t, s.agents[0], "other")
	s.awaitHolder(t, addrs[0], s.agents)
	for _, a := range s.agents {
		want := "192.168.1.250 is not announced: the host " + mac.String() + " has it"
		check(t, a.Await("a problem that names the host", func(st *status.Status) bool {
			for _, p := range st.Problems {
				if p.Object == "Service default/web" && p.Message == want {
					return true
				}
			}
			return false
		}))
		if node := holder(t, a, taken); node != "" {
			t.Errorf("%s announces an address that a host has", node)
		}
	}
	if got := s.recorder.holders(taken, time.Time{}); len(got) > 0 {
		t.Errorf("%v have answered for the address of a host", got)
	}
}

// TestAlone: one node without peers and without a secret announces.
func TestAlone(t *testing.T) {
	newSetup(t, 1, false).alone(t)
}

// TestOtherUplinks: the device with the address's subnet is a bond, or a VLAN on another device, to which nodes and clients
// are connected. make test-vm runs it on a kernel that has them.
func TestOtherUplinks(t *testing.T) {
	for name, kind := range map[string]topo.Uplink{"bond": topo.Bond, "vlan": topo.VLAN} {
		t.Run(name, func(t *testing.T) {
			n, err := topo.New(topo.Options{Nodes: 1, TxOffload: true, Uplink: kind})
			if topo.KernelLacks(err) {
				t.Skip("this kernel lacks it, see make test-vm: ", err)
			}
			check(t, err)
			newSetupOn(t, n, false).alone(t)
		})
	}
}

// alone has the only node announce the addresses of a service, and a client use them.
func (s *setup) alone(t *testing.T) {
	t.Helper()
	s.addPod(t, 0, "web")
	s.addService(t, "web")
	start(t, s.agents...)
	for _, addr := range s.addresses(t, s.agents[0], "web") {
		if node := s.awaitHolder(t, addr, s.agents); node != s.Nodes[0].Name {
			t.Errorf("%s is announced by %q", addr, node)
		}
		client, err := s.Laptop.Client()
		check(t, err)
		if reply := client.Get(topo.Request{To: netip.AddrPortFrom(addr, 80)}); !reply.OK() {
			t.Errorf("%s: %s", addr, reply)
		}
		check(t, client.Close())
	}
}

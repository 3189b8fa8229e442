// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"bufio"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestHandover: connections on every path of packets go on in the kernel's table, with their
// addresses and ports, while waggle is still attached and after it is gone. The kernel serves new
// ones. If an agent is started instead, it serves new ones and leaves the others to the kernel.
func TestHandover(t *testing.T) {
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes[:2] {
			t.Run(podNetworkName(pods)+"/"+m.name, func(t *testing.T) { handover(t, pods, m) })
		}
	}
}

// successor is a network with a service on either node, whose connections waggle serves, and
// another proxy that is ready to take over.
type successor struct {
	*setup
	services []service
	ways     []way
	all      []*proxied
}

func newSuccessor(t *testing.T, network topo.PodNetwork, m mode) *successor {
	t.Helper()
	s := &successor{setup: newSetup(t, network, m), services: []service{{name: "local", number: 1}, {name: "remote", number: 2}}}
	pods := map[string]*topo.Pod{}
	for node, svc := range s.services {
		s.addService(t, svc)
		pods[svc.name] = s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	s.ways = s.setup.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitServices(t, len(s.services)*portsOfService)
	for _, svc := range s.services {
		for _, w := range s.ways {
			if w.name == "lb" {
				continue // as a node port
			}
			for _, v6 := range bothFamilies {
				s.all = append(s.all, openProxied(t, svc, w, v6, pods[svc.name])...)
			}
		}
	}
	nft(t, s.Nodes[0].Host, nftProxy(s.Nodes[0], s.services, pods))
	return s
}

func (s *successor) checkAll(t *testing.T, when string) {
	t.Helper()
	for range 3 {
		for _, p := range s.all {
			p.check(t, when)
		}
	}
}

// byPacket counts the connections whose packets are translated. Of the sockets in pods these are
// UDP sockets, whose endpoint may change.
func (s *successor) byPacket() (count int) {
	for _, p := range s.all {
		if !strings.Contains(p.name, "socket") || strings.HasSuffix(p.name, "udp") {
			count++
		}
	}
	return count
}

func handover(t *testing.T, network topo.PodNetwork, m mode) {
	s := newSuccessor(t, network, m)
	agent := s.agents[0]
	s.checkAll(t, "by waggle")
	if out, err := agent.CLI("handover", "--force"); err == nil || !strings.Contains(out, "another agent holds the pin directory") {
		t.Errorf("while an agent runs: %v, %s", err, out)
	}
	check(t, agent.Stop())
	if out, err := agent.CLI("handover"); err == nil || !strings.Contains(out, "no rules of kube-proxy") {
		t.Errorf("without kube-proxy: %v, %s", err, out)
	}
	s.checkAll(t, "after a handover that was refused")

	out, err := agent.CLI("handover", "--force")
	check(t, err)
	if want := fmt.Sprintf("connections handed over: %d\n", s.byPacket()); !strings.HasSuffix(out, want) {
		t.Errorf("got %q, want %q", out, want)
	}
	before, err := agent.Counters()
	check(t, err)
	s.checkAll(t, "by the kernel")
	for _, p := range s.all {
		if strings.HasSuffix(p.name, "tcp") && strings.Contains(p.name, "packet") {
			if reply := p.client.Echo(topo.Request{To: p.to.To, Size: 1000}); !reply.OK() {
				t.Errorf("%s, a new connection: %s", p.name, reply)
			}
		}
	}
	after, err := agent.Counters()
	check(t, err)
	for k, n := range after.Since(before) {
		if strings.HasSuffix(k, "/express") {
			t.Errorf("%d packets of connections that are not ours counted as %s", n, k)
		}
	}
	if out, err := agent.CLI("handover", "--force"); err != nil || !strings.Contains(out, "connections handed over: 0\n") {
		t.Errorf("once more: %v, %s", err, out)
	}

	check(t, agent.Start()) // the handover is revoked
	nft(t, s.Nodes[0].Host, "delete table inet proxy\n")
	s.checkAll(t, "by the kernel, beside an agent")
	connectAll(t, s.services, s.ways)
	agent.Kill()
	if tables, err := s.Nodes[0].Command("nft", "list", "tables").CombinedOutput(); err != nil || strings.Contains(string(tables), "waggle-handover") {
		t.Errorf("tables %s (%v)", tables, err)
	}
}

// TestHandoverThenCleanup: after the datapath is gone, the connections go on.
func TestHandoverThenCleanup(t *testing.T) {
	s := newSuccessor(t, topo.Routed, modes[1])
	agent := s.agents[0]
	check(t, agent.Stop())
	_, err := agent.CLI("handover", "--force")
	check(t, err)
	_, err = agent.CLI("cleanup")
	check(t, err)
	s.checkAll(t, "without waggle")
	for _, args := range [][]string{{"handover"}, {"handover", "--drain"}} { // as a pod of deploy/handover.yaml that starts again
		if out, err := agent.CLI(args...); err != nil || !strings.Contains(out, "no connection is left to hand over") {
			t.Errorf("%v after the cleanup: %v, %s", args, err, out)
		}
	}
}

// TestDrain: waggle's connections go on, the kernel serves new ones, and the command reports the
// end.
func TestDrain(t *testing.T) {
	s := newSuccessor(t, topo.Routed, modes[1])
	agent := s.agents[0]
	check(t, agent.Stop())
	cmd := agent.Command("handover", "--drain", "--force")
	pipe, err := cmd.StdoutPipe()
	check(t, err)
	check(t, cmd.Start())
	defer time.AfterFunc(topo.Patient(30*time.Second), func() { _ = cmd.Process.Kill() }).Stop()
	lines := bufio.NewScanner(pipe)
	var seen []string
	await := func(want string) {
		t.Helper()
		for lines.Scan() {
			if seen = append(seen, lines.Text()); lines.Text() == want {
				return
			}
		}
		t.Fatalf("no %q in %q", want, seen)
	}
	left := s.byPacket()
	await(fmt.Sprintf("connections left: %d", left))
	s.checkAll(t, "draining")
	for _, p := range s.all {
		if strings.HasSuffix(p.name, "tcp") {
			p.stream.Close()
			if !strings.Contains(p.name, "socket") {
				left--
			}
		}
	}
	await(fmt.Sprintf("connections left: %d", left)) // those of UDP
	check(t, cmd.Process.Kill())
	_ = cmd.Wait()
}

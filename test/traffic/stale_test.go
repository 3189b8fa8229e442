// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cilium/ebpf/btf"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestRow28: when a pod leaves a UDP service, its clients go to another pod at once, even while the
// pod would still answer. This includes connected sockets in pods. Connected sockets of the node
// fail, and their next connect leads to another pod. Clients of the other pods stay.
//
// Contract: 53.
func TestRow28(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { row28(t, m) })
	}
}

func row28(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	c := s.addClients(t)
	ways := append(s.ways(c), s.nodeProcess(t))
	s.startAgents(t)
	s.awaitPods(t, web, pods...)

	for i, leaving := range pods { // one on the node that clients send to, one on the other
		left := pods[1-i]
		t.Run(leaving.Name, func(t *testing.T) {
			var all []conversation
			for _, w := range ways {
				for _, v6 := range bothFamilies {
					all = append(all, converse(t, w, web, v6, leaving, left))
				}
			}
			tcp := streamsTo(t, leaving, web, ways)
			check(t, s.manifests.Remove("pod-"+leaving.Name+".yaml"))
			s.awaitPods(t, web, left)
			for _, conv := range all {
				conv.moves(t, s, left)
			}
			for name, stream := range tcp {
				if reply := stream.Exchange(1000); !reply.OK() || reply.Pod != leaving.Name {
					t.Errorf("the TCP stream %s: %s", name, reply)
				}
			}
			check(t, s.manifests.WritePod(leaving, "app: web"))
			s.awaitPods(t, web, pods...)
		})
	}
}

// nodeProcess is the way of a process on node-1, whose UDP sockets are connected to an endpoint.
const nodeProcess = "node-process"

func (s *setup) nodeProcess(t *testing.T) way {
	return way{nodeProcess, client(t, s.Nodes[0].Host), service.clusterIP}
}

// conversation is a client's two UDP sockets by one way, each with a pod that it stays with.
type conversation struct {
	way           way
	to            topo.Request
	moving, stays *topo.Stream
	seen          topo.Reply // by the pod that stays
}

func converse(t *testing.T, w way, svc service, v6 bool, leaving, left *topo.Pod) conversation {
	t.Helper()
	c := conversation{way: w, to: topo.Request{To: w.to(svc, dns, v6), Size: 500}}
	c.moving, _ = c.open(t, leaving)
	c.stays, c.seen = c.open(t, left)
	return c
}

// open makes sockets until one is led to the pod.
func (c conversation) open(t *testing.T, pod *topo.Pod) (*topo.Stream, topo.Reply) {
	t.Helper()
	for range 100 {
		stream, reply := c.way.client.OpenUDP(c.to)
		for range 3 { // until the flow is confirmed
			if reply = stream.Exchange(500); !reply.OK() {
				t.Fatalf("%s to %s: %s", c.way.name, c.to.To, reply)
			}
		}
		if reply.Pod == pod.Name {
			return stream, reply
		}
		stream.Close()
	}
	t.Fatalf("100 sockets by %s to %s, and none led to %s", c.way.name, c.to.To, pod.Name)
	return nil, topo.Reply{}
}

func (c conversation) moves(t *testing.T, s *setup, left *topo.Pod) {
	t.Helper()
	name := c.way.name + " to " + c.to.To.String()
	if c.way.name == nodeProcess && !canAbortSockets() {
		c.cannotMove(t, s, name)
		return
	}
	reply := c.moving.Exchange(500)
	for deadline := time.Now().Add(topo.Patient(10 * time.Second)); reply.OK() && reply.Pod != left.Name; reply = c.moving.Exchange(500) {
		if time.Now().After(deadline) {
			t.Fatalf("%s stays with the pod that has left: %s", name, reply)
		}
	}
	if c.way.name == nodeProcess {
		// depends on whether the application was about to send or to receive
		if reply.Errno != "EDESTADDRREQ" && reply.Errno != "ECONNABORTED" {
			t.Errorf("%s: a socket connected to the pod that has left: %s", name, reply)
		}
		again := c.way.client.UDPConnected(c.to)
		if !again.OK() || again.Pod != left.Name {
			t.Errorf("%s: connected anew: %s", name, again)
		}
	} else if !reply.OK() {
		t.Errorf("%s: the conversation with the pod that has left: %s", name, reply)
	}
	if now := c.stays.Exchange(500); !now.OK() || now.Pod != left.Name || now.Remote != c.seen.Remote {
		t.Errorf("%s: the conversation with the pod that stays was\n%s\nand is\n%s", name, c.seen, now)
	}
	c.moving.Close()
	c.stays.Close()
}

// cannotMove expects that the agent reports that the kernel leaves connected sockets where they
// are.
func (c conversation) cannotMove(t *testing.T, s *setup, name string) {
	t.Helper()
	check(t, s.agents[0].Await("a warning of sockets", func(s *status.Status) bool {
		return slices.ContainsFunc(s.Warnings, func(w string) bool {
			return strings.HasPrefix(w, "UDP sockets connected to endpoints that no longer serve") && strings.Contains(w, "Linux 6.5")
		})
	}))
	if reply := c.moving.Exchange(500); !reply.OK() || reply.Pod == c.seen.Pod {
		t.Errorf("%s, which the kernel can't abort: %s", name, reply)
	}
	c.moving.Close()
	c.stays.Close()
}

// canAbortSockets reports whether the kernel has bpf_sock_destroy (Linux 6.5).
var canAbortSockets = sync.OnceValue(func() bool {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return false
	}
	var destroy *btf.Func
	return kernel.TypeByName("bpf_sock_destroy", &destroy) == nil
})

// TestRow28Restart: the next agent handles what has happened while no agent ran.
func TestRow28Restart(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	leaving, left := s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")
	ways := append(s.ways(s.addClients(t)), s.nodeProcess(t))
	s.startAgents(t)
	s.awaitPods(t, web, leaving, left)
	var all []conversation
	for _, w := range ways {
		all = append(all, converse(t, w, web, false, leaving, left))
	}
	s.agents[0].Kill()
	check(t, s.manifests.Remove("pod-"+leaving.Name+".yaml"))
	check(t, s.agents[0].Start())
	for _, conv := range all {
		conv.moves(t, s, left)
	}
}

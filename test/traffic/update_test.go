// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

const updatePause = 10 * time.Millisecond

// TestPodsComeAndGo: pods of a service are replaced one after the other under traffic. New
// connections reach the new pod and no longer the old one, streams stay with their pod, and nothing
// fails.
//
// Contract: 23.
func TestPodsComeAndGo(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { podsComeAndGo(t, m) })
	}
}

func podsComeAndGo(t *testing.T, m mode) {
	const rounds = 10 // in each mode; in each round one pod comes and one goes
	s := newSetup(t, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitPods(t, web, pods...)

	traffic := startBackground(updatePause)
	traffic.addConnections(web, ways)
	for i := range rounds {
		pods = append(pods, s.addPod(t, i%2, fmt.Sprintf("web-%d", i), "app: web"))
		s.awaitPods(t, web, pods...)
		leaving := pods[0]
		streams := streamsTo(t, leaving, web, ways)
		pods = pods[1:]
		retire(t, s, web, leaving, pods, ways)
		for name, stream := range streams {
			if reply := stream.Exchange(1000); !reply.OK() {
				t.Errorf("the stream %s to a pod that left its service: %s", name, reply)
			}
		}
		check(t, leaving.Node.RemovePod(leaving))
	}
	traffic.check(t)
}

// retire removes a pod from its service, while the pod still serves as a terminating pod does.
func retire(t *testing.T, s *setup, svc service, leaving *topo.Pod, left []*topo.Pod, ways []way) {
	t.Helper()
	check(t, s.manifests.Remove("pod-"+leaving.Name+".yaml"))
	s.awaitPods(t, svc, left...)
	newest := left[len(left)-1].Name
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			seen := answerers(t, w, topo.Request{To: w.to(svc, http, v6)}, newest)
			if slices.Contains(seen, leaving.Name) {
				t.Errorf("by %s, %s: new connections reach %s, which has left", w.name, familyName(v6), leaving.Name)
			}
		}
	}
}

// answerers makes new connections until the wanted pod has answered, and lists the pods that did.
func answerers(t *testing.T, w way, r topo.Request, wanted string) []string {
	t.Helper()
	const tries = 100 // with two pods, the chance to miss one is 2^-100
	var seen []string
	for range tries {
		reply := w.client.Get(r)
		if !reply.OK() {
			t.Fatalf("by %s: %s", w.name, reply)
		}
		seen = append(seen, reply.Pod)
		if reply.Pod == wanted {
			return seen
		}
	}
	t.Errorf("by %s: %d new connections, and none to %s", w.name, tries, wanted)
	return seen
}

// streamsTo opens a stream to a particular pod by each way.
func streamsTo(t *testing.T, pod *topo.Pod, svc service, ways []way) map[string]*topo.Stream {
	t.Helper()
	out := map[string]*topo.Stream{}
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			out[w.name+"/"+familyName(v6)] = streamTo(t, pod, w.client, w.to(svc, echo, v6))
		}
	}
	return out
}

func streamTo(t *testing.T, pod *topo.Pod, c *topo.Client, to netip.AddrPort) *topo.Stream {
	t.Helper()
	for range 100 {
		stream, reply := c.OpenTCP(topo.Request{To: to})
		if !reply.OK() {
			t.Fatal(reply)
		}
		if reply.Pod == pod.Name {
			return stream
		}
		stream.Close()
	}
	t.Fatalf("100 streams to %s, and none to %s", to, pod.Name)
	return nil
}

// TestTargetPort: a service's target port changes back and forth under traffic.
func TestTargetPort(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[0])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	s.addPod(t, 0, "web-a", "app: web")
	s.addPod(t, 1, "web-b", "app: web")
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	traffic := startBackground(updatePause)
	traffic.addConnections(web, ways)
	traffic.addStreams(t, web, ways)
	for i := range 10 {
		web.target = 8080 + (i+1)%2
		s.addService(t, web)
		s.awaitTarget(t, web)
		for _, w := range ways {
			reply := w.client.Get(topo.Request{To: w.to(web, http, false)})
			if reply.Server.Port() != uint16(web.target) {
				t.Errorf("by %s, after the target port has become %d: %s", w.name, web.target, reply)
			}
		}
	}
	traffic.check(t)
}

// awaitTarget waits until no frontend leads to the other target port.
func (s *setup) awaitTarget(t *testing.T, svc service) {
	t.Helper()
	s.awaitEndpoints(t, svc, func(backends []netip.AddrPort) bool {
		return !slices.ContainsFunc(backends, func(b netip.AddrPort) bool {
			return b.Port() != uint16(svc.target) && (b.Port() == 8080 || b.Port() == 8081)
		})
	})
}

// TestRename: a service takes over all addresses and ports of another one that goes. The source
// sees a deletion and an addition; clients see no change.
func TestRename(t *testing.T) {
	handovers := map[string]func(s *setup, from, to service) error{
		"in one file": func(s *setup, _, to service) error { return s.manifests.Write("web.yaml", to.yaml()) },
		"new file first": func(s *setup, from, to service) error {
			if err := s.manifests.Write(to.name+".yaml", to.yaml()); err != nil {
				return err
			}
			return s.manifests.Remove(from.name + ".yaml")
		},
	}
	for name, handOver := range handovers {
		t.Run(name, func(t *testing.T) { rename(t, name == "in one file", handOver) })
	}
}

func rename(t *testing.T, oneFile bool, handOver func(s *setup, from, to service) error) {
	s := newSetup(t, topo.Routed, modes[0])
	from, to := service{name: "blue", app: "web", number: 1}, service{name: "green", app: "web", number: 1}
	file := from.name + ".yaml"
	if oneFile {
		file = "web.yaml"
	}
	check(t, s.manifests.Write(file, from.yaml()))
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitPods(t, from, pods...)
	traffic := startBackground(updatePause)
	traffic.addConnections(from, ways)
	traffic.addStreams(t, from, ways)
	stop, err := s.agents[0].WatchFrontend(from.lb(http, false), unix.IPPROTO_TCP)
	check(t, err)
	for range 6 {
		check(t, handOver(s, from, to))
		s.awaitPods(t, to, pods...)
		s.awaitServices(t, portsOfService) // those of the other one are gone
		from, to = to, from
	}
	if looks, missing := stop(); missing > 0 || looks == 0 {
		t.Errorf("the frontend was missing %d times of %d", missing, looks)
	}
	traffic.check(t)
}

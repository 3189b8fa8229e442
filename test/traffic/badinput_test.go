// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// mistake is a file with an error in it, and what the agent should report.
type mistake struct {
	file, yaml string
	want       status.Problem // its Message is a part of the agent's
}

func badService(name, port string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: %s}
spec:
  type: NodePort
  selector: {app: web}
  ports:
  - %s
`, name, port)
}

var mistakes = []mistake{
	{
		"broken.yaml", "apiVersion: v1\nkind: [Service\n",
		status.Problem{Document: 1, Message: "yaml"},
	},
	{
		"unknown-field.yaml", badService("unknown-field", "{port: 80, tragetPort: 8080}"),
		status.Problem{Document: 1, Object: "Service default/unknown-field", Field: "spec.ports[0].tragetPort", Message: "unknown field"},
	},
	{
		// This port is web's.
		"taken-port.yaml", badService("taken-port", "{port: 80, nodePort: 30010}"),
		status.Problem{Document: 1, Object: "Service default/taken-port", Field: "spec.ports[0].nodePort", Message: "30010"},
	},
	{
		"out-of-range.yaml", badService("out-of-range", "{port: 80, nodePort: 80}"),
		status.Problem{Document: 1, Object: "Service default/out-of-range", Field: "spec.ports[0].nodePort", Message: "30000-32767"},
	},
	{
		"second-document.yaml", badService("fine", "{port: 80}") + "---\n" + badService("not-fine", "{port: 99999, targetPort: 80}"),
		status.Problem{Document: 2, Object: "Service default/not-fine", Field: "spec.ports[0].port", Message: "between 1 and 65535"},
	},
}

// TestMistakes: whatever is wrong with a file, the agent names the place and the reason, and
// everything else goes on. A corrected file has no problem left.
func TestMistakes(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	pod := s.addPod(t, 0, "web", "app: web")
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitPods(t, web, pod)
	traffic := startBackground(updatePause)
	traffic.addConnections(web, ways)
	traffic.addStreams(t, web, ways)

	for _, m := range mistakes {
		check(t, s.manifests.Write(m.file, m.yaml))
	}
	// The earlier state stays in force.
	check(t, s.manifests.Write("web.yaml", strings.ReplaceAll(web.yaml(), "nodePort: 30010", "nodePort: 1")))
	s.awaitProblems(t, len(mistakes)+2) // both ports of web with that number
	shown, err := s.agents[0].CLI("status")
	check(t, err)
	for _, m := range mistakes {
		checkNamed(t, s, shown, m)
	}

	for _, m := range mistakes {
		check(t, s.manifests.Remove(m.file))
	}
	s.addService(t, web)
	s.awaitProblems(t, 0)
	shown, err = s.agents[0].CLI("status")
	check(t, err)
	for _, file := range append(mistakes, mistake{file: "web.yaml"}) {
		if strings.Contains(shown, file.file) {
			t.Errorf("all is well again, but status says of %s:\n%s", file.file, shown)
		}
	}
	traffic.check(t)
}

func (s *setup) awaitProblems(t *testing.T, count int) {
	t.Helper()
	check(t, s.agents[0].Await(fmt.Sprintf("%d problems", count), func(st *status.Status) bool {
		return len(st.Problems) == count
	}))
}

// checkNamed looks for one line of the status that has all parts.
func checkNamed(t *testing.T, s *setup, shown string, m mistake) {
	t.Helper()
	where := fmt.Sprintf("%s (document %d)", filepath.Join(s.manifests.Dir, m.file), m.want.Document)
	for line := range strings.Lines(shown) {
		if strings.Contains(line, where) && strings.Contains(line, m.want.Object) &&
			strings.Contains(line, m.want.Field) && strings.Contains(line, m.want.Message) {
			return
		}
	}
	t.Errorf("no line says %+v of %s:\n%s", m.want, m.file, shown)
}

// TestBrake: all manifests vanish at once, as by a failed mount. The services go on, over a
// restart, too. The status lists what is held, until it is defined again, taken over or released.
func TestBrake(t *testing.T) {
	const count = 20
	s := newSetup(t, topo.Routed, modes[1])
	var services []service
	for i := range count {
		services = append(services, service{name: fmt.Sprintf("web-%d", i), app: "web", number: i + 1})
		s.addService(t, services[i])
	}
	pod := s.addPod(t, 0, "web", "app: web")
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitServices(t, count*portsOfService)
	traffic := startBackground(updatePause)
	traffic.addConnections(services[count-1], ways)
	traffic.addStreams(t, services[count-1], ways)

	for _, svc := range services {
		check(t, s.manifests.Remove(svc.name+".yaml"))
	}
	agent := s.agents[0]
	awaitHeld(t, agent, count)
	connectAllTo(t, pod, services, ways)
	shown, err := agent.CLI("status", "-o", "wide")
	check(t, err)
	for _, want := range []string{fmt.Sprintf("%d Services are gone from the directory all at once and are held (--deletion-brake)", count), "default/web-7\n"} {
		if !strings.Contains(shown, want) {
			t.Errorf("the status doesn't say %q:\n%s", want, shown)
		}
	}
	// A restart does not release them.
	agent.Kill()
	check(t, agent.Start())
	awaitHeld(t, agent, count)
	connectAllTo(t, pod, services, ways)

	// Services that are deleted later are deleted.
	more := service{name: "more", app: "web", number: count + 1}
	s.addService(t, more)
	s.awaitServices(t, (count+1)*portsOfService)
	check(t, s.manifests.Remove("more.yaml"))
	s.awaitServices(t, count*portsOfService)

	// Another service may take an address that one had.
	heir := service{name: "heir", app: "web", number: 1}
	s.addService(t, heir)
	awaitHeld(t, agent, count-1)
	s.awaitServices(t, count*portsOfService)
	connectAllTo(t, pod, []service{heir}, ways)
	traffic.check(t)

	out, err := agent.CLI("release")
	check(t, err)
	if want := fmt.Sprintf("Released: %d services.\n", count-1); out != want {
		t.Errorf("waggle release says %q, want %q", out, want)
	}
	check(t, agent.Await("the deletion", func(st *status.Status) bool {
		return st.Proxy.Services == portsOfService && len(st.Held) == 0
	}))
	connectAllTo(t, pod, []service{heir}, ways)
}

// TestDirectoryAwayOverRestart: an agent that starts while its directory can't be read serves what
// the last agent did, keeps its devices, and follows the directory once it is there.
func TestDirectoryAwayOverRestart(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	check(t, s.manifests.Write("allocated.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: allocated}\nspec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}\n"))
	pod := s.addPod(t, 0, "web", "app: web")
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitServices(t, portsOfService+1)
	traffic := startBackground(updatePause)
	traffic.addConnections(web, ways)
	traffic.addStreams(t, web, ways)
	agent := s.agents[0]
	before, err := agent.CLI("service", "list")
	check(t, err)

	check(t, os.Rename(s.manifests.Dir, s.manifests.Dir+"-away"))
	for range 2 {
		agent.Kill()
		check(t, agent.Start())
	}
	connectAllTo(t, pod, []service{web}, ways)
	shown, err := agent.CLI("status")
	check(t, err)
	if want := "the directory can't be read; everything stays in force"; !strings.Contains(shown, want) {
		t.Errorf("the status doesn't say %q:\n%s", want, shown)
	}
	check(t, os.Rename(s.manifests.Dir+"-away", s.manifests.Dir))
	s.addService(t, service{name: "new", app: "web", number: 2})
	s.awaitServices(t, 2*portsOfService+1)
	s.awaitProblems(t, 0)
	check(t, s.manifests.Remove("new.yaml"))
	s.awaitServices(t, portsOfService+1)
	after, err := agent.CLI("service", "list")
	check(t, err)
	if after != before {
		t.Errorf("services after it:\n%s\nbefore:\n%s", after, before)
	}
	traffic.check(t)
}

func awaitHeld(t *testing.T, agent *cluster.Agent, count int) {
	t.Helper()
	check(t, agent.Await(fmt.Sprintf("%d held services", count), func(st *status.Status) bool {
		return len(st.Held) == count
	}))
}

func connectAllTo(t *testing.T, pod *topo.Pod, services []service, ways []way) {
	t.Helper()
	for _, svc := range services {
		for _, w := range ways {
			for _, v6 := range bothFamilies {
				if r := w.client.Get(topo.Request{To: w.to(svc, http, v6)}); r.Pod != pod.Name {
					t.Errorf("%s by %s, %s: %s", svc.name, w.name, familyName(v6), r)
				}
			}
		}
	}
}

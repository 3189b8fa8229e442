// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"flag"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/await"
)

var faults = flag.Bool("faults", false, "also stop agents, make uplinks anew, and give two agents one name: minutes")

func onlyWithFaults(t *testing.T) {
	t.Helper()
	if !*faults {
		t.Skip("needs -faults (make test-announce)")
	}
}

// TestStopped: an agent that is stopped, and goes on after others have taken over, answers for nothing until they have agreed.
func TestStopped(t *testing.T) {
	onlyWithFaults(t)
	s := newSetup(t, 3, true)
	s.addPod(t, 0, "web")
	s.addService(t, "web")
	start(t, s.agents...)
	addr := s.addresses(t, s.agents[0], "web")[0]
	prober(t, s.Laptop, addr)
	for round := range 3 {
		at := s.awaitHolder(t, addr, s.agents)
		agent, others := s.others(at)
		began := time.Now()
		check(t, syscall.Kill(agent.Pid(), syscall.SIGSTOP))
		next := s.awaitHolder(t, addr, others, at)
		if round > 0 {
			time.Sleep(2 * time.Second)
		}
		check(t, syscall.Kill(agent.Pid(), syscall.SIGCONT))
		back := s.awaitHolder(t, addr, s.agents, next)
		s.expectMoves(t, "stopped", addr, began, at, next, back)
	}
	s.neverTwo(t)
}

// TestNoStrays: whatever takes an address from a Service or its announcement, no node's map keeps it, after a restart either.
func TestNoStrays(t *testing.T) {
	onlyWithFaults(t)
	s := newSetup(t, 2, true)
	s.addPod(t, 0, "web")
	start(t, s.agents...)
	total := func(when string, want int) {
		t.Helper()
		await.Until(t, func() (string, bool) {
			n, text := 0, ""
			for _, a := range s.agents {
				table, done, err := a.Announced()
				check(t, err)
				all, err := table.All()
				done()
				check(t, err)
				n += len(all)
				text += fmt.Sprintf(" %s: %v", a.Node.Name, all)
			}
			return fmt.Sprintf("%s: %s", when, text), n == want
		})
	}
	pool, advertisement, _ := strings.Cut(lan, "---\n")
	for name, take := range map[string]func(){
		"service deleted": func() { check(t, s.manifests.Remove("web.yaml")) },
		"type changed": func() {
			check(t, s.manifests.Write("web.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec: {selector: {app: web}, ports: [{port: 80}]}\n"))
		},
		"advertisement removed": func() { check(t, s.manifests.Write("lan.yaml", pool)) },
		"pool removed":          func() { check(t, s.manifests.Write("lan.yaml", advertisement)) },
	} {
		check(t, s.manifests.Write("lan.yaml", lan))
		s.addService(t, "web")
		total("before "+name, 2)
		take()
		total(name, 0)
		check(t, s.manifests.Write("lan.yaml", lan))
		s.addService(t, "web")
		total("after "+name, 2)
		for _, a := range s.agents {
			check(t, a.Stop())
		}
		take()
		start(t, s.agents...)
		total(name+" while the agents were stopped", 0)
	}
}

// TestTwins: of two agents with one name the second announces nothing, and both say so. When the first one is dead and all
// of it removed, the second one takes over.
func TestTwins(t *testing.T) {
	onlyWithFaults(t)
	s := newSetup(t, 2, true, "--node-name=twin")
	s.addPod(t, 0, "web")
	s.addService(t, "web")
	check(t, s.agents[0].Start("--members-address="+s.Nodes[0].IP4.String()))
	addr := s.addresses(t, s.agents[0], "web")[0]
	prober(t, s.Laptop, addr)
	s.awaitHolder(t, addr, s.agents[:1])
	check(t, s.agents[1].Start("--members-address="+s.Nodes[1].IP4.String()))
	check(t, s.agents[1].Await("a warning of the name", func(st *status.Status) bool {
		return strings.Contains(fmt.Sprint(st.Warnings), "has the name of this node, twin")
	}))
	check(t, s.agents[0].Await("a problem with the name", func(st *status.Status) bool {
		return strings.Contains(fmt.Sprint(st.Problems), "two agents have the name twin")
	}))
	time.Sleep(3 * time.Second)
	s.expectMoves(t, "of two agents with one name", addr, time.Time{}, s.Nodes[0].Name)
	s.agents[0].Kill()
	check(t, s.agents[0].Cleanup())
	time.Sleep(time.Minute) // the second one may have met the address: then it asks again each minute
	s.awaitHolder(t, addr, s.agents[1:])
	s.neverTwo(t)
}

// TestTaken: a host takes an address that is announced already. The holder says so, and goes on to announce it.
func TestTaken(t *testing.T) {
	onlyWithFaults(t)
	s := newSetup(t, 2, true)
	s.addPod(t, 0, "web")
	s.addService(t, "web")
	start(t, s.agents...)
	addr := s.addresses(t, s.agents[0], "web")[0]
	at := s.awaitHolder(t, addr, s.agents)
	agent, _ := s.others(at)
	host, err := s.AddMachine("printer")
	check(t, err)
	check(t, host.AddAddr("eth0", netip.PrefixFrom(addr, 24)))
	mac, err := host.MAC("eth0")
	check(t, err)
	want := addr.String() + " is announced by " + at + ", but the host " + mac.String() + " has it, too: clients may reach either"
	says := func(st *status.Status) bool {
		return slices.ContainsFunc(st.Problems, func(p status.Problem) bool { return p.Object == "Service default/web" && p.Message == want })
	}
	within := func(what string, done func(*status.Status) bool) { // of the minute in which the holder asks once, and more
		t.Helper()
		err := agent.Await(what, done)
		for range 4 {
			if err != nil {
				err = agent.Await(what, done)
			}
		}
		check(t, err)
	}
	began := time.Now()
	within("taken", says)
	if node := s.awaitHolder(t, addr, s.agents); node != at {
		t.Errorf("it is announced by %s, and was by %s", node, at)
	}
	check(t, host.DelAddr("eth0", netip.PrefixFrom(addr, 24)))
	within("given back", func(st *status.Status) bool { return !says(st) })
	t.Logf("noticed, and noticed to be over, in %s", time.Since(began).Round(time.Second))
}

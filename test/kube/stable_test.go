// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// churnTime is how long services churn. WAGGLE_CHURN sets another, such as 2m.
func churnTime(t *testing.T) time.Duration {
	t.Helper()
	text := os.Getenv("WAGGLE_CHURN")
	if text == "" {
		return 15 * time.Second
	}
	d, err := time.ParseDuration(text)
	check(t, err)
	return d
}

// stable is a service that nobody changes, and clients that use it all the time.
type stable struct {
	loads map[string]*topo.Load
}

// TestChurn changes 300 services twenty times a second while clients loop on
// others: no request of theirs fails, no connection breaks, and in the end the
// agents' maps hold what a fresh plan would.
//
// Contract: 7, 23.
func TestChurn(t *testing.T) {
	churning(t, func(s *setup, _ []*cluster.Agent) {
		<-time.After(churnTime(t))
	})
}

// TestChurnWithoutAPIServer kills the API server amid changes, and starts it again.
//
// Contract: 6, 7, 23.
func TestChurnWithoutAPIServer(t *testing.T) {
	churning(t, func(s *setup, _ []*cluster.Agent) {
		for range 2 {
			<-time.After(churnTime(t) / 3)
			s.cp.APIServer.Kill()
			<-time.After(churnTime(t) / 6)
			check(t, s.cp.APIServer.Start())
		}
	})
}

// TestChurnKillingAgents kills the agents twenty times, at any moment of a sync or of a start.
//
// Contract: 6, 7, 23.
func TestChurnKillingAgents(t *testing.T) {
	churning(t, func(s *setup, agents []*cluster.Agent) {
		for i := range 20 {
			a := agents[i%len(agents)]
			a.Kill()
			if i%4 >= 2 { // while it starts, too
				check(t, a.Launch())
				<-time.After(rand.N(time.Second))
				a.Kill()
			}
			check(t, a.Start())
			<-time.After(rand.N(time.Second))
		}
	})
}

// churning does something while services churn, and looks at what clients noticed
// and at what is in the maps afterwards.
func churning(t *testing.T, during func(*setup, []*cluster.Agent)) {
	s := newSetup(t)
	svc := service{name: "stable", number: 1, pods: []string{here, there}}
	for node, name := range svc.pods {
		s.addPod(t, node, name, map[string]string{svc.selects(): "yes"})
	}
	s.addService(t, svc.object(), len(svc.pods))
	s.addChurnObjects(t)
	agents := s.newAgents(t)
	for _, a := range agents {
		check(t, a.Start())
	}
	s.awaitFreshPlan(t, agents)
	loads := s.loadStable(t, svc)
	churn := s.startChurn()
	during(s, agents)
	churn.stop(t)
	s.awaitFreshPlan(t, agents)
	loads.check(t)
}

// loadStable starts clients of a stable service, in both families.
func (s *setup) loadStable(t *testing.T, svc service) *stable {
	t.Helper()
	near, err := s.Nodes[0].AddPod("near", topo.PodOptions{})
	check(t, err)
	sandboxed, err := s.Nodes[0].AddPod("sandboxed", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	laptop := client(t, s.Laptop)
	b := &stable{loads: map[string]*topo.Load{}}
	for _, v6 := range bothFamilies {
		node := s.Nodes[0].IP4
		if v6 {
			node = s.Nodes[0].IP6
		}
		for _, way := range []struct {
			name   string
			client *topo.Client
			to     netip.AddrPort
		}{
			{"laptop to NodePort", laptop, netip.AddrPortFrom(node, svc.nodePort())},
			{"laptop to LB IP", laptop, netip.AddrPortFrom(svc.lbIP(v6), servicePort)},
			{"pod to ClusterIP", client(t, near.Host), netip.AddrPortFrom(svc.clusterIP(v6), servicePort)},
			{"sandboxed pod to ClusterIP", client(t, sandboxed.Host), netip.AddrPortFrom(svc.clusterIP(v6), servicePort)},
		} {
			name := fmt.Sprintf("%s at %s", way.name, way.to)
			stream, opened := way.client.OpenUDP(topo.Request{To: way.to})
			check(t, opened.Error())
			const pause = 20 * time.Millisecond
			b.loads[name+", TCP"] = topo.StartLoad(1, pause, func(int) topo.Reply { return way.client.Get(topo.Request{To: way.to}) })
			b.loads[name+", one connection"] = topo.StartLoad(1, pause, func(int) topo.Reply {
				return way.client.Get(topo.Request{To: way.to, KeepAlive: true})
			})
			b.loads[name+", one UDP socket"] = topo.StartLoad(1, pause, func(int) topo.Reply { return stream.Exchange(200) })
		}
	}
	return b
}

// check ends the clients. Nothing may have failed, and nothing may have stood still.
func (b *stable) check(t *testing.T) {
	t.Helper()
	ok := 0
	for name, load := range b.loads {
		report := load.Stop()
		ok += report.OK
		if report.Failed > 0 || report.OK == 0 {
			t.Errorf("%s: %s", name, report)
		}
	}
	t.Logf("%d loops of clients, %d requests", len(b.loads), ok)
}

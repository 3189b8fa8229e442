// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"reflect"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestRestart: the agent dies and comes back repeatedly, killed and in good order. No old or new
// connection is disturbed.
//
// Contract: 6, 23.
func TestRestart(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { restart(t, m) })
	}
}

func restart(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)

	traffic := startBackground(20 * time.Millisecond)
	for _, svc := range services {
		traffic.addStreams(t, svc, s.ways(c))
		traffic.addConnections(svc, s.ways(c))
	}
	for range 2 {
		for _, end := range []func(*cluster.Agent){(*cluster.Agent).Kill, func(a *cluster.Agent) { check(t, a.Stop()) }} {
			restartOnce(t, s, end, func() { connectAll(t, services, s.ways(c)) })
		}
	}
	traffic.check(t)
}

// restartOnce ends and starts the agent of node-1. Its programs are exchanged inside the links,
// which stay, and its maps stay as they are.
func restartOnce(t *testing.T, s *setup, end func(*cluster.Agent), whileDead func()) {
	t.Helper()
	agent := s.agents[0]
	before, links := contents(t, agent), linksOf(t, agent)
	end(agent)
	if loader.Held(agent.PinDir) {
		t.Fatal("the agent still holds its pin directory")
	}
	whileDead()
	check(t, agent.Start())
	if after := contents(t, agent); !reflect.DeepEqual(before, after) {
		t.Errorf("the maps differ:\nbefore %+v\nafter  %+v", before, after)
	}
	checkUpgraded(t, links, linksOf(t, agent))
}

func contents(t *testing.T, a *cluster.Agent) *cluster.Contents {
	t.Helper()
	c, err := a.Contents()
	check(t, err)
	return c
}

func linksOf(t *testing.T, a *cluster.Agent) []loader.LinkStatus {
	t.Helper()
	links, err := a.Links()
	check(t, err)
	return links
}

func checkUpgraded(t *testing.T, before, after []loader.LinkStatus) {
	t.Helper()
	if len(before) != len(after) || len(after) == 0 {
		t.Fatalf("%d links before, %d after", len(before), len(after))
	}
	for i, now := range after {
		was := before[i]
		if !now.Attached {
			t.Errorf("%s on %s%s is not attached", now.Hook, now.Device, now.Cgroup)
		}
		if now.Hook != was.Hook || now.Device != was.Device || now.LinkID != was.LinkID {
			t.Errorf("the link %+v was replaced by %+v", was, now)
		}
		if now.ProgramID == was.ProgramID {
			t.Errorf("%s on %s%s runs the old program", now.Hook, now.Device, now.Cgroup)
		}
	}
}

// connectAll makes a new connection and a UDP exchange by each way.
func connectAll(t *testing.T, services []service, ways []way) {
	t.Helper()
	for _, svc := range services {
		for _, w := range ways {
			for _, v6 := range bothFamilies {
				for _, reply := range []topo.Reply{
					w.client.Get(topo.Request{To: w.to(svc, http, v6)}),
					w.client.UDPConnected(topo.Request{To: w.to(svc, dns, v6)}),
				} {
					if !reply.OK() || reply.Pod != svc.name {
						t.Errorf("%s by %s, %s: %s", svc.name, w.name, familyName(v6), reply)
					}
				}
			}
		}
	}
}

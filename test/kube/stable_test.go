// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

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

// stableClients use a service that does not change: from outside, and from pods whose sockets
// waggle sees and does not see.
type stableClients struct{ laptop, pod, sandboxed *topo.Client }

// loads are what they do, all the time.
type loads map[string]*topo.Load

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
	svc := service{name: "stable", number: 1, pods: []string{here, there}, edit: addEcho}
	for node, name := range svc.pods {
		s.addPod(t, node, name, map[string]string{svc.selects(): "yes"})
	}
	s.addService(t, svc.object(), len(svc.pods))
	s.addChurnObjects(t)
	clients := s.addStableClients(t)
	agents := s.newAgents(t)
	for _, a := range agents {
		check(t, a.Start())
	}
	s.awaitFreshPlan(t, agents)
	loads := clients.load(t, s, svc)
	churn := s.startChurn()
	during(s, agents)
	churn.stop(t)
	s.awaitFreshPlan(t, agents)
	loads.check(t)
}

// addStableClients makes the clients before any agent serves their devices.
func (s *setup) addStableClients(t *testing.T) stableClients {
	t.Helper()
	pod, err := s.Nodes[0].AddPod("near", topo.PodOptions{})
	check(t, err)
	sandboxed, err := s.Nodes[0].AddPod("sandboxed", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	return stableClients{client(t, s.Laptop), client(t, pod.Host), client(t, sandboxed.Host)}
}

// load starts requests to a service, in both families and by all frontends.
func (c stableClients) load(t *testing.T, s *setup, svc service) loads {
	t.Helper()
	all := loads{}
	for _, v6 := range bothFamilies {
		node := s.Nodes[0].IP4
		if v6 {
			node = s.Nodes[0].IP6
		}
		all.add(t, "laptop to NodePort", c.laptop, netip.AddrPortFrom(node, svc.nodePort()))
		all.add(t, "laptop to LB IP", c.laptop, netip.AddrPortFrom(svc.lbIP(v6), servicePort))
		all.add(t, "pod to ClusterIP", c.pod, netip.AddrPortFrom(svc.clusterIP(v6), servicePort))
		all.add(t, "sandboxed pod to ClusterIP", c.sandboxed, netip.AddrPortFrom(svc.clusterIP(v6), servicePort))
	}
	return all
}

// add starts a loop of new connections, one over a connection that stays, and
// one over a UDP socket that stays.
func (all loads) add(t *testing.T, name string, client *topo.Client, to netip.AddrPort) {
	t.Helper()
	const pause = 20 * time.Millisecond
	name = fmt.Sprintf("%s at %s, ", name, to)
	stream, opened := client.OpenUDP(topo.Request{To: to})
	check(t, opened.Error())
	all[name+"new connections"] = topo.StartLoad(1, pause, func(int) topo.Reply { return client.Get(topo.Request{To: to}) })
	all[name+"one UDP socket"] = topo.StartLoad(1, pause, func(int) topo.Reply { return stream.Exchange(200) })
	connection, opened := client.OpenTCP(topo.Request{To: netip.AddrPortFrom(to.Addr(), echoPort(to.Port()))})
	check(t, opened.Error())
	all[name+"one connection"] = topo.StartLoad(1, pause, func(int) topo.Reply { return connection.Exchange(200) })
}

// The stable service echoes at a port, and at a node port, of their own.
const (
	echoServicePort = 7
	echoNodePort    = 30500
)

func echoPort(other uint16) uint16 {
	if other == servicePort {
		return echoServicePort
	}
	return echoNodePort
}

func addEcho(svc *corev1.Service) {
	svc.Spec.Ports = append(svc.Spec.Ports, corev1.ServicePort{
		Name: "echo", Port: echoServicePort, TargetPort: intstr.FromInt32(7070), NodePort: echoNodePort,
	})
}

// check ends the requests. Nothing may have failed, and nothing may have stood still.
func (all loads) check(t *testing.T) {
	t.Helper()
	ok := 0
	for name, load := range all {
		report := load.Stop()
		ok += report.OK
		if report.Failed > 0 || report.OK == 0 {
			t.Errorf("%s: %s", name, report)
		}
	}
	t.Logf("%d loops of requests, %d requests", len(all), ok)
}

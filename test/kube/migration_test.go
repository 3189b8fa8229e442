// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestMigration goes from kube-proxy to waggle, through three restarts of its agents, and back,
// while connections of every stage send 16 bytes each 50 ms. One that hears nothing for two
// seconds, or is reset, is broken, and none may be. The way is that of docs/kubernetes.md.
func TestMigration(t *testing.T) {
	m := newMigration(t)
	m.toWaggle(t, m.newAgents(t))
	m.restart(t)
	m.open(t, "after the restarts")
	m.wait()
	m.back(t)
}

// TestMigrationUpgraded: likewise, but the previous release takes over, and is upgraded after the restarts.
func TestMigrationUpgraded(t *testing.T) {
	previous := cluster.PreviousRelease()
	if previous == "" {
		t.Skip("there is no release before this one: make test-upgrade")
	}
	current, err := buildWaggle()
	check(t, err)
	m := newMigration(t)
	agents := m.newAgents(t)
	for _, a := range agents {
		a.Use(previous)
	}
	m.toWaggle(t, agents)
	m.restart(t)
	m.open(t, "after the restarts")
	m.wait()
	for _, a := range agents {
		check(t, a.Stop())
		a.Use(current)
		check(t, a.Start())
	}
	m.open(t, "after the upgrade")
	m.wait()
	m.back(t)
}

// toWaggle has agents take over from kube-proxy.
func (m *migration) toWaggle(t *testing.T, agents []*cluster.Agent) {
	t.Helper()
	m.agents = agents
	m.startKubeProxies(t)
	m.open(t, "of kube-proxy")
	for _, a := range agents {
		check(t, a.Start())
	}
	m.endKubeProxies(t)
	for _, a := range agents {
		out, err := a.CLI("cleanup", "--kube-proxy")
		check(t, err)
		if !strings.Contains(out, "kube-proxy") {
			t.Errorf("cleanup removed %q", out)
		}
	}
	m.open(t, "of waggle")
}

// restart ends the agents, and starts them again, three times.
func (m *migration) restart(t *testing.T) {
	t.Helper()
	for round := range 3 {
		m.wait()
		for _, a := range m.agents {
			if round == 1 {
				a.Kill()
			} else {
				check(t, a.Stop())
			}
			check(t, a.Start())
		}
	}
}

// back has kube-proxy take over from the agents. No connection may be broken in the end.
func (m *migration) back(t *testing.T) {
	t.Helper()
	m.startKubeProxies(t)
	m.wait()
	for _, a := range m.agents {
		check(t, a.Stop())
		out, err := a.CLI("handover")
		check(t, err)
		t.Logf("%s: %s", a.Node.Name, out)
	}
	m.open(t, "after the handover")
	m.wait()
	for _, a := range m.agents {
		_, err := a.CLI("cleanup")
		check(t, err)
	}
	m.open(t, "after the cleanup")
	m.wait()
	m.check(t)
}

// migration is two nodes with a service each, whose only endpoint is there.
type migration struct {
	*setup
	services []service
	clients  map[string]*topo.Client
	proxies  []*cluster.KubeProxy
	agents   []*cluster.Agent
	talks    []*talk
}

func newMigration(t *testing.T) *migration {
	m := &migration{setup: newSetup(t), clients: map[string]*topo.Client{}}
	for node, name := range []string{here, there} {
		svc := service{name: name + "-only", number: node + 1, pods: []string{name}, edit: addEchoTo(node + 1)}
		m.services = append(m.services, svc)
		m.addPod(t, node, name, map[string]string{svc.selects(): "yes"})
		m.addService(t, svc.object(), 1)
	}
	sandboxed, err := m.Nodes[0].AddPod("sandboxed", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	m.clients["laptop"], m.clients["pod"] = client(t, m.Laptop), client(t, sandboxed.Host)
	kubeconfig := m.kubeconfig(t, "kube-proxy", apiserver.KubeProxy)
	for _, node := range m.Nodes {
		k, err := cluster.NewKubeProxy(node, filepath.Join(m.binaries, "kube-proxy"), kubeconfig, m.dir)
		check(t, err)
		m.proxies = append(m.proxies, k)
	}
	t.Cleanup(func() {
		for _, k := range m.proxies {
			check(t, k.Stop())
		}
	})
	return m
}

func addEchoTo(number int) func(*corev1.Service) {
	return func(svc *corev1.Service) {
		addEcho(svc)
		svc.Spec.Ports[len(svc.Spec.Ports)-1] = corev1.ServicePort{
			Name: "echo", Port: echoServicePort, TargetPort: intstr.FromInt32(7070), NodePort: int32(echoNodePort + number),
		}
	}
}

func (m *migration) startKubeProxies(t *testing.T) {
	t.Helper()
	var sentinels []string
	for _, svc := range m.services {
		for _, v6 := range bothFamilies {
			sentinels = append(sentinels, svc.clusterIP(v6).String())
		}
	}
	for _, k := range m.proxies {
		check(t, k.Start())
	}
	for _, k := range m.proxies {
		check(t, k.AwaitRules(sentinels))
	}
}

// endKubeProxies leaves their rules, and the kernel's connections.
func (m *migration) endKubeProxies(t *testing.T) {
	t.Helper()
	for _, k := range m.proxies {
		check(t, k.End())
	}
}

func (m *migration) wait() { <-time.After(2 * time.Second) }

// talk is a connection over which something is said all the time.
type talk struct {
	name   string
	stream *topo.Stream
	udp    bool
	quit   chan struct{}
	ended  sync.WaitGroup
	said   int
	broken string // how, if it is
}

const (
	talkEvery   = 50 * time.Millisecond
	talkBytes   = 16
	talkSilence = 2 * time.Second
	askAgain    = 250 * time.Millisecond // after a datagram that was lost
)

// open opens connections of each kind to each service, which go on until check.
func (m *migration) open(t *testing.T, stage string) {
	t.Helper()
	for _, svc := range m.services {
		for _, v6 := range bothFamilies {
			node := m.Nodes[0].IP4
			if v6 {
				node = m.Nodes[0].IP6
			}
			m.talk(t, stage, "laptop", false, netip.AddrPortFrom(node, uint16(echoNodePort+svc.number)))
			m.talk(t, stage, "laptop", true, netip.AddrPortFrom(node, svc.nodePort()))
			m.talk(t, stage, "pod", false, netip.AddrPortFrom(svc.clusterIP(v6), echoServicePort))
			m.talk(t, stage, "pod", true, netip.AddrPortFrom(svc.clusterIP(v6), servicePort))
		}
	}
}

func (m *migration) talk(t *testing.T, stage, from string, udp bool, to netip.AddrPort) {
	t.Helper()
	k := &talk{udp: udp, quit: make(chan struct{})}
	var reply topo.Reply
	if udp {
		k.name = fmt.Sprintf("%s: UDP, %s to %s", stage, from, to)
		k.stream, reply = m.clients[from].OpenUDP(topo.Request{To: to, Timeout: askAgain})
	} else {
		k.name = fmt.Sprintf("%s: TCP, %s to %s", stage, from, to)
		k.stream, reply = m.clients[from].OpenTCP(topo.Request{To: to, Timeout: talkSilence})
	}
	if !reply.OK() {
		t.Fatalf("%s: %s", k.name, reply)
	}
	if heard := k.say(); !heard.OK() {
		t.Fatalf("%s, at once: %s", k.name, heard)
	}
	m.talks = append(m.talks, k)
	k.ended.Go(k.run)
}

// run says something each 50 ms.
func (k *talk) run() {
	next := time.NewTicker(talkEvery)
	defer next.Stop()
	for {
		select {
		case <-k.quit:
			return
		case <-next.C:
		}
		if heard := k.say(); !heard.OK() {
			k.broken = fmt.Sprintf("after %d answers, at %s: %s", k.said, time.Now().Format(time.StampMilli), heard)
			return
		}
		k.said++
	}
}

// say waits for an answer. A datagram may get lost, and is said again.
func (k *talk) say() topo.Reply {
	began := time.Now()
	for {
		heard := k.stream.Exchange(talkBytes)
		if heard.OK() || !k.udp || time.Since(began) > topo.Patient(talkSilence) {
			return heard
		}
	}
}

// check ends the connections. None may be broken.
func (m *migration) check(t *testing.T) {
	t.Helper()
	said, broken := 0, 0
	for _, k := range m.talks {
		close(k.quit)
		k.ended.Wait()
		said += k.said
		if k.broken != "" {
			broken++
			t.Errorf("%s: broken %s", k.name, k.broken)
		} else if k.said == 0 {
			t.Errorf("%s: said nothing", k.name)
		}
	}
	t.Logf("%d connections, %d answers, %d broken", len(m.talks), said, broken)
}

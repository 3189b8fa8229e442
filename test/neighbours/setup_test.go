// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"context"
	"errors"
	"net/netip"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/test/apiserver"
	"github.com/waggle-lb/waggle/test/topo"
)

// setup is a network in one environment, with a control plane.
type setup struct {
	*topo.Network
	environment
	cp       *apiserver.ControlPlane
	ctx      context.Context
	binaries string
	parts    string
	dir      string
	pods     map[string]*topo.Pod
	clients  map[string]*topo.Client
}

// What all servers serve.
var serverPorts = topo.Ports{Echo: []uint16{7070}, UDP: []uint16{5353}}

const timeout = 10 * time.Minute // of one environment

func newSetup(t *testing.T, e environment) *setup {
	t.Helper()
	s := &setup{environment: e, binaries: apiserver.Binaries(t), parts: partsDir(t), dir: t.TempDir(),
		pods: map[string]*topo.Pod{}, clients: map[string]*topo.Client{}}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	var err error
	s.Network, err = topo.New(e.topology())
	check(t, err)
	t.Cleanup(func() { check(t, s.Network.Close()) })
	s.startControlPlane(t)
	if e.flannel != "" {
		s.startFlannel(t)
	}
	if e.nodes != nil {
		e.nodes(t, s)
	}
	check(t, s.loadRules())
	s.addPods(t)
	s.addServices(t)
	if e.inPods != nil {
		e.inPods(t, s)
	}
	check(t, s.checkRules())
	s.addClients(t)
	return s
}

// startControlPlane starts one on a machine of the Ethernet that is the nodes' default gateway as
// well. It has no way to pods or services: what leaks there is lost.
func (s *setup) startControlPlane(t *testing.T) {
	t.Helper()
	machine, err := s.AddMachine("control")
	check(t, err)
	for _, node := range s.Nodes {
		check(t, errors.Join(
			node.AddRoute(netip.MustParsePrefix("0.0.0.0/0"), machine.IP4),
			node.AddRoute(netip.MustParsePrefix("::/0"), machine.IP6)))
	}
	check(t, errors.Join(s.Laptop.AddRoute(lbs4, s.Nodes[0].IP4), s.Laptop.AddRoute(lbs6, s.Nodes[0].IP6)))
	s.cp, err = apiserver.Start(apiserver.Options{Host: machine, Binaries: s.binaries, Dir: t.TempDir()})
	check(t, err)
	t.Cleanup(func() { check(t, s.cp.Stop()) })
	for _, node := range s.Nodes {
		object := apiserver.NodeOf(node, "")
		object.Annotations = map[string]string{corev1.ObjectTTLAnnotationKey: "0"} // as on any node: flannel counts on some
		check(t, s.cp.CreateNode(s.ctx, object))
	}
}

// The pods, and where they run.
const (
	local   = "local"   // serves on the node that traffic comes to
	remote  = "remote"  // serves on the other node
	self    = "self"    // serves, and asks itself by packet
	sockets = "sockets" // asks, and the node's socket hooks see it
	packets = "packets" // asks, and they don't, as with a virtual machine
)

func (s *setup) addPods(t *testing.T) {
	t.Helper()
	for _, p := range []struct {
		name   string
		node   int
		hidden bool
	}{{local, 0, false}, {remote, 1, false}, {self, 0, true}, {sockets, 0, false}, {packets, 0, true}} {
		node := s.Nodes[p.node]
		pod, err := node.AddPod(p.name, topo.PodOptions{OutsideCgroup: p.hidden, Attach: s.attachByCNI})
		check(t, err)
		_, err = pod.Serve(serverPorts)
		check(t, err)
		check(t, s.cp.CreatePod(s.ctx, apiserver.PodOf(pod, map[string]string{"app": p.name})))
		s.pods[p.name] = pod
	}
	_, err := s.Laptop.Serve(serverPorts)
	check(t, err)
}

// addClients starts a client process wherever traffic comes from.
func (s *setup) addClients(t *testing.T) {
	t.Helper()
	hosts := []*topo.Host{s.Laptop, s.Nodes[0].Host, s.Nodes[1].Host}
	for _, name := range []string{self, sockets, packets} {
		hosts = append(hosts, s.pods[name].Host)
	}
	for _, h := range hosts {
		c, err := h.Client()
		check(t, err)
		t.Cleanup(func() { check(t, c.Close()) })
		s.clients[h.Name] = c
	}
}

// kubeconfig writes a file for a process on a node.
func (s *setup) kubeconfig(t *testing.T, name string, user apiserver.User) string {
	t.Helper()
	file := filepath.Join(s.dir, name+".kubeconfig")
	check(t, s.cp.WriteKubeconfig(file, user))
	return file
}

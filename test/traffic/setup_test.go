// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"errors"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// The ports that all pods of these tests serve.
var podPorts = topo.Ports{HTTP: []uint16{8080, 8081}, UDP: []uint16{5353}, Echo: []uint16{7070}}

// smallMaps are quicker to make and to read, which these tests do often.
const smallMaps = "--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"

// setup is a network with an agent on each node.
type setup struct {
	*topo.Network
	manifests cluster.Manifests
	agents    []*cluster.Agent
	inside    *topo.Pod // once there are clients
}

// mode is how a setup's external devices handle packets.
type mode struct {
	name string
	xdp  bool
	tx   bool // checksum and segmentation offload
}

var modes = []mode{{"xdp", true, false}, {"tc", false, true}, {"tc-tx-off", false, false}}

// newSetup makes a network of two nodes. startAgents starts its agents.
func newSetup(t *testing.T, pods topo.PodNetwork, m mode) *setup {
	t.Helper()
	return newSetupOf(t, 2, pods, m)
}

func newSetupOf(t *testing.T, nodes int, pods topo.PodNetwork, m mode) *setup {
	t.Helper()
	return newSetupWith(t, topo.Options{Nodes: nodes, PodNetwork: pods}, m)
}

// newSetupWith skips the test if the kernel lacks a kind of device that the network needs.
func newSetupWith(t *testing.T, opts topo.Options, m mode) *setup {
	t.Helper()
	opts.TxOffload, opts.XDPPeers = m.tx, m.xdp
	n, err := topo.New(opts)
	needs(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	s := &setup{Network: n, manifests: cluster.Manifests{Dir: t.TempDir()}}
	dir := t.TempDir()
	for _, node := range n.Nodes {
		check(t, s.manifests.WriteNode(node))
		agentOpts := cluster.AgentOptions{Binary: binary, Manifests: s.manifests.Dir, Dir: dir, Args: []string{smallMaps, "--xdp=off"}}
		if m.xdp {
			agentOpts.Args = []string{smallMaps, "--xdp=always"}
		}
		a := cluster.NewAgent(n, node, agentOpts)
		s.agents = append(s.agents, a)
		t.Cleanup(func() {
			if t.Failed() {
				log, _ := os.ReadFile(a.LogFile)
				status, _ := a.CLI("status")
				flows, _ := a.CLI("flow", "list", "-o", "wide", "--limit", "0")
				t.Logf("agent on %s:\n%s\n%s\n%s", a.Node.Name, log, status, flows)
			}
			a.Kill()
			check(t, a.Cleanup())
		})
	}
	return s
}

// needs skips the test if the kernel lacks a kind of device. The kernels of test/vm have all.
func needs(t *testing.T, err error) {
	t.Helper()
	if topo.KernelLacks(err) {
		t.Skipf("this kernel lacks it, see make test-vm: %v", err)
	}
	check(t, err)
}

// startAgents starts the agents, with more flags if any are given.
func (s *setup) startAgents(t *testing.T, flags ...string) {
	t.Helper()
	errs := make([]error, len(s.agents))
	var all sync.WaitGroup
	for i, a := range s.agents {
		all.Go(func() { errs[i] = a.Start(flags...) })
	}
	all.Wait()
	check(t, errors.Join(errs...))
	if s.inside != nil { // before, other hooks serve its sockets
		check(t, s.agents[0].AwaitNamespace(s.inside))
	}
}

// addPod makes a pod that serves podPorts, and its manifest.
func (s *setup) addPod(t *testing.T, node int, name string, labels ...string) *topo.Pod {
	t.Helper()
	pod, err := s.Nodes[node].AddPod(name, topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(podPorts)
	check(t, err)
	check(t, s.manifests.WritePod(pod, labels...))
	return pod
}

// client starts a client process on a host.
func client(t *testing.T, h *topo.Host) *topo.Client {
	t.Helper()
	c, err := h.Client()
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

// clients are the sources of the traffic: outside the cluster, a pod on node-1, and a pod there
// whose sockets the hooks don't see.
type clients struct {
	laptop, inside, outside *topo.Client
	insidePod, outsidePod   *topo.Pod
}

// addClients makes the clients, and the laptop's routes to load balancer addresses.
func (s *setup) addClients(t *testing.T) *clients {
	t.Helper()
	node := s.Nodes[0]
	inside, err := node.AddPod("inside", topo.PodOptions{})
	check(t, err)
	s.inside = inside
	outside, err := node.AddPod("outside", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), node.IP4))
	check(t, s.Laptop.AddRoute(netip.MustParsePrefix("2001:db8::/64"), node.IP6))
	return &clients{client(t, s.Laptop), client(t, inside.Host), client(t, outside.Host), inside, outside}
}

// awaitServices waits until all agents have planned so many service ports.
func (s *setup) awaitServices(t *testing.T, count int) {
	t.Helper()
	for _, a := range s.agents {
		check(t, a.Await("the services", func(s *status.Status) bool { return s.Proxy.Services == count }))
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func at(addr string, port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr(addr), port)
}

// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"fmt"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// The ports that all pods of these tests serve.
var podPorts = topo.Ports{HTTP: []uint16{8080}, UDP: []uint16{5353}, Echo: []uint16{7070}}

// setup is a laptop and two nodes. node-1 runs the agent under test.
type setup struct {
	*topo.Network
	manifests cluster.Manifests
	agent     *cluster.Agent
	node      *topo.Node
	xdp       bool
}

// newSetup makes the network; the agent is started with start.
func newSetup(t *testing.T, xdp bool, args ...string) *setup {
	t.Helper()
	n, err := topo.New(topo.Options{Nodes: 2, XDPPeers: xdp, TxOffload: !xdp})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	s := &setup{Network: n, manifests: cluster.Manifests{Dir: t.TempDir()}, node: n.Nodes[0], xdp: xdp}
	for _, node := range n.Nodes {
		check(t, s.manifests.WriteNode(node))
	}
	mode := "--xdp=off"
	if xdp {
		mode = "--xdp=always"
	}
	s.useAgent(t, cluster.AgentOptions{Binary: binary, Args: append([]string{mode}, args...)})
	return s
}

// useAgent prepares another agent than newSetup's, which must not have been
// started.
func (s *setup) useAgent(t *testing.T, opts cluster.AgentOptions) {
	t.Helper()
	opts.Manifests, opts.Dir = s.manifests.Dir, t.TempDir()
	s.agent = cluster.NewAgent(s.Network, s.node, opts)
	a := s.agent
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(a.LogFile)
			status, _ := a.CLI("status")
			t.Logf("agent on %s:\n%s\n%s", a.Node.Name, tail(log), status)
		}
		a.Kill()
		check(t, a.Cleanup())
	})
}

func tail(log []byte) []byte { return log[max(0, len(log)-8000):] }

// addPod makes a pod that serves podPorts, and its manifest.
func (s *setup) addPod(t *testing.T, node *topo.Node, name, app string) *topo.Pod {
	t.Helper()
	pod, err := node.AddPod(name, topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(podPorts)
	check(t, err)
	check(t, s.manifests.WritePod(pod, "app: "+app))
	return pod
}

// service is a dual-stack Service of type NodePort. Its addresses and node ports follow from its number.
type service struct {
	app    string
	number int
}

func (v service) yaml() string {
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %[1]s
spec:
  type: NodePort
  selector: {app: %[1]s}
  ipFamilyPolicy: RequireDualStack
  clusterIPs: ["10.96.0.%[2]d", "fd00:10:96::%[2]d"]
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 30%02[2]d0}
  - {name: echo, port: 7, targetPort: 7070, nodePort: 30%02[2]d7}
  - {name: dns, port: 53, targetPort: 5353, protocol: UDP, nodePort: 30%02[2]d0}
`, v.app, v.number)
}

// The number of service ports of a service, in both families.
const portsOfService = 6

func (s *setup) addService(t *testing.T, v service) {
	t.Helper()
	check(t, s.manifests.Write(v.app+".yaml", v.yaml()))
}

// The last digits of node ports.
const (
	httpDigit = 0
	echoDigit = 7
	dnsDigit  = 0
)

func (s *setup) nodePort(v service, digit uint16, v6 bool) netip.AddrPort {
	addr := s.node.IP4
	if v6 {
		addr = s.node.IP6
	}
	return netip.AddrPortFrom(addr, 30000+10*uint16(v.number)+digit)
}

func (v service) clusterIP(port uint16, v6 bool) netip.AddrPort {
	text := "10.96.0.%d"
	if v6 {
		text = "fd00:10:96::%d"
	}
	return netip.AddrPortFrom(netip.MustParseAddr(fmt.Sprintf(text, v.number)), port)
}

// start starts the agent and waits until it serves so many service ports.
func (s *setup) start(t *testing.T, services int, more ...string) {
	t.Helper()
	check(t, s.agent.Start(more...))
	s.awaitStatus(t, "the services", func(st *status.Status) bool { return st.Proxy.Services == services })
}

func (s *setup) awaitStatus(t *testing.T, what string, done func(*status.Status) bool) {
	t.Helper()
	check(t, s.agent.Await(what, done))
}

// awaitTrue polls until a condition holds.
func awaitTrue(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

func (s *setup) counters(t *testing.T) cluster.Counters {
	t.Helper()
	c, err := s.agent.Counters()
	check(t, err)
	return c
}

// total returns the sum of a verdict's counters over all hooks.
func total(c cluster.Counters, verdict bpf.Verdict) (sum uint64) {
	for hook := bpf.Hook(0); hook < bpf.HookCount; hook++ {
		sum += c[bpf.HookName(hook)+"/"+bpf.VerdictName(verdict)]
	}
	return sum
}

// client starts a client process on a host.
func client(t *testing.T, h *topo.Host) *topo.Client {
	t.Helper()
	c, err := h.Client()
	check(t, err)
	t.Cleanup(func() { check(t, c.Close()) })
	return c
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

var bothFamilies = []bool{false, true}

func familyName(v6 bool) string {
	if v6 {
		return "IPv6"
	}
	return "IPv4"
}

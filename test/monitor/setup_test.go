// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// smallMaps are quicker to make.
const smallMaps = "--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"

// setup is node-1 with an agent that attaches XDP, and what it serves.
type setup struct {
	*topo.Network
	manifests     cluster.Manifests
	agent         *cluster.Agent
	node          *topo.Node
	local, remote *topo.Pod
	laptop        *topo.Client
}

// service is a Service with no selector and two families, and the addresses of its endpoints.
type service struct {
	name, spec string
	ip         int // of 10.96.0.0/24 and its IPv6 counterpart
	nodePort   int
	protocol   string
	endpoints  []string
}

const onLocal, onRemote = "10.244.0.2", "10.244.1.2"

var services = []service{
	{name: "remote", ip: 1, nodePort: 30001, endpoints: []string{onRemote}},
	{name: "local", ip: 2, nodePort: 30002, endpoints: []string{onLocal}},
	{name: "both", ip: 3, nodePort: 30003, endpoints: []string{onLocal, onRemote}},
	{name: "empty", ip: 4, nodePort: 30004},
	{name: "elsewhere", ip: 5, nodePort: 30005, spec: "externalTrafficPolicy: Local", endpoints: []string{onRemote}},
	{name: "sticky", ip: 7, nodePort: 30007, spec: "sessionAffinity: ClientIP", endpoints: []string{onRemote}},
	{name: "lost", ip: 8, nodePort: 30008, endpoints: []string{"10.66.0.1"}},
	{name: "names", ip: 12, nodePort: 30012, protocol: "UDP", endpoints: []string{onRemote}},
}

// v6 is an address's counterpart in topo's IPv6 networks.
func v6(addr string) string {
	return strings.NewReplacer("10.244.0.", "fd00:10:244::", "10.244.1.", "fd00:10:244:1::", "10.66.0.", "fd00:66::").Replace(addr)
}

func (s service) yaml() string {
	protocol := s.protocol
	if protocol == "" {
		protocol = "TCP"
	}
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Service
metadata:
  name: %s
spec:
  type: NodePort
  ipFamilyPolicy: RequireDualStack
  clusterIPs: ["10.96.0.%d", "fd00:10:96::%d"]
  ports: [{name: main, port: 80, targetPort: 8080, nodePort: %d, protocol: %s}]
  %s
`, s.name, s.ip, s.ip, s.nodePort, protocol, s.spec)
	for _, family := range []string{"IPv4", "IPv6"} {
		fmt.Fprintf(&b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: %[1]s-%[2]s\n"+
			"  labels: {kubernetes.io/service-name: %[1]s}\naddressType: %[3]s\nports: [{name: main, port: 8080, protocol: %[4]s}]\nendpoints: [",
			s.name, strings.ToLower(family), family, protocol)
		for _, addr := range s.endpoints {
			node := "node-2"
			if addr == onLocal {
				node = "node-1"
			}
			if family == "IPv6" {
				addr = v6(addr)
			}
			fmt.Fprintf(&b, "{addresses: [%q], nodeName: %s, conditions: {ready: true}},", addr, node)
		}
		b.WriteString("]\n")
	}
	return b.String()
}

func newSetup(t *testing.T, flags ...string) *setup {
	t.Helper()
	n, err := topo.New(topo.Options{Nodes: 2, XDPPeers: true, Queues: runtime.NumCPU()})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	s := &setup{Network: n, manifests: cluster.Manifests{Dir: t.TempDir()}, node: n.Nodes[0]}
	s.local, s.remote = s.pod(t, 0, "local"), s.pod(t, 1, "remote")
	for _, node := range n.Nodes {
		check(t, s.manifests.WriteNode(node))
	}
	for _, svc := range services {
		check(t, s.manifests.Write(svc.name+".yaml", svc.yaml()))
	}
	check(t, s.node.Do(s.neighbours))
	s.agent = cluster.NewAgent(n, s.node, cluster.AgentOptions{
		Binary: binary, Manifests: s.manifests.Dir, Dir: t.TempDir(), Args: []string{smallMaps, "--xdp=always"},
	})
	t.Cleanup(func() {
		if t.Failed() {
			log, _ := os.ReadFile(s.agent.LogFile)
			out, _ := s.agent.CLI("status")
			t.Logf("the agent:\n%s\n%s", log, out)
		}
		s.agent.Kill()
		check(t, s.agent.Cleanup())
	})
	check(t, s.agent.Start(flags...))
	check(t, s.agent.Await("the services", func(st *status.Status) bool { return st.Proxy.Services >= 2*len(services) }))
	check(t, s.agent.AwaitNamespace(s.local))
	if s.laptop, err = n.Laptop.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, s.laptop.Close()) })
	return s
}

func (s *setup) pod(t *testing.T, node int, name string) *topo.Pod {
	t.Helper()
	pod, err := s.Nodes[node].AddPod(name, topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{Echo: []uint16{8080}, UDP: []uint16{8080}})
	check(t, err)
	return pod
}

// neighbours has node-1 know where the others are, so that no packet waits for them, and a route that leads nowhere.
func (s *setup) neighbours() error {
	eth0, err := netlink.LinkByName("eth0")
	if err != nil {
		return err
	}
	for _, peer := range []*topo.Host{s.Nodes[1].Host, s.Laptop} {
		mac, err := peer.MAC("eth0")
		if err != nil {
			return err
		}
		for _, a := range []netip.Addr{peer.IP4, peer.IP6} {
			err := netlink.NeighSet(&netlink.Neigh{LinkIndex: eth0.Attrs().Index, IP: net.IP(a.AsSlice()), HardwareAddr: mac, State: netlink.NUD_PERMANENT})
			if err != nil {
				return err
			}
		}
	}
	_, nowhere, _ := net.ParseCIDR("10.66.0.0/16")
	return netlink.RouteAdd(&netlink.Route{Dst: nowhere, Type: 6}) // RTN_BLACKHOLE
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func at(a netip.Addr, port uint16) netip.AddrPort { return netip.AddrPortFrom(a, port) }

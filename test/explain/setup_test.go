// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// smallMaps are quicker to make.
const smallMaps = "--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"

// setup is node-1 with an agent, and what it serves.
type setup struct {
	*topo.Network
	manifests     cluster.Manifests
	agent         *cluster.Agent
	node          *topo.Node
	local, remote *topo.Pod
	laptop        *topo.Client
}

// service is a Service with no selector, and its endpoints.
type service struct {
	name      string
	spec      string // YAML
	lb        string // the address of its load balancer
	label     string
	endpoints []endpoint
}

// endpoint makes an endpoint, which is ready by default.
type endpoint struct {
	addr, node string
	conditions string
	zone, hint string
}

func clusterIP(last int) string {
	return fmt.Sprintf(`clusterIPs: ["10.96.0.%d", "fd00:10:96::%d"]`, last, last)
}

const (
	onLocal  = "10.244.0.2"
	onRemote = "10.244.1.2"
	http     = "{name: http, port: 80, targetPort: 8080}"
)

func ports(nodePort int) string {
	return fmt.Sprintf("ports: [{name: http, port: 80, targetPort: 8080, nodePort: %d}]", nodePort)
}

// services are what is served, each for some of the situations.
var services = []service{
	{name: "remote", spec: "type: NodePort\n  " + clusterIP(1) + "\n  " + ports(30001), endpoints: []endpoint{{addr: onRemote, node: "node-2"}}},
	{name: "local", spec: "type: NodePort\n  " + clusterIP(2) + "\n  " + ports(30002), endpoints: []endpoint{{addr: onLocal, node: "node-1"}}},
	{name: "both", spec: "type: NodePort\n  " + clusterIP(3) + "\n  " + ports(30003), endpoints: []endpoint{
		{addr: onLocal, node: "node-1"}, {addr: onRemote, node: "node-2"}, {addr: "10.244.1.3", node: "node-2"}, {addr: "10.244.1.4", node: "node-2"}}},
	{name: "empty", spec: "type: NodePort\n  " + clusterIP(4) + "\n  " + ports(30004)},
	{name: "elsewhere", spec: "type: NodePort\n  externalTrafficPolicy: Local\n  internalTrafficPolicy: Local\n  " + clusterIP(5) + "\n  " + ports(30005),
		endpoints: []endpoint{{addr: onRemote, node: "node-2"}}},
	{name: "guarded", lb: "203.0.113.6", spec: "type: LoadBalancer\n  loadBalancerSourceRanges: [192.168.1.8/29, 10.0.0.0/8]\n  " + clusterIP(6) + "\n  " + ports(30006),
		endpoints: []endpoint{{addr: onRemote, node: "node-2"}}},
	{name: "sticky", spec: "type: NodePort\n  sessionAffinity: ClientIP\n  " + clusterIP(7) + "\n  " + ports(30007), endpoints: []endpoint{
		{addr: onRemote, node: "node-2"}, {addr: "10.244.1.3", node: "node-2"}}},
	{name: "lost", spec: "type: NodePort\n  " + clusterIP(8) + "\n  " + ports(30008), endpoints: []endpoint{{addr: "10.66.0.1", node: "node-9"}}},
	{name: "quiet", spec: "type: NodePort\n  " + clusterIP(9) + "\n  " + ports(30009), endpoints: []endpoint{{addr: "192.168.1.77", node: "node-9"}}},
	{name: "others", label: "service.kubernetes.io/service-proxy-name: other", spec: clusterIP(10) + "\n  " + "ports: [" + http + "]"},
	{name: "ending", spec: "type: NodePort\n  " + clusterIP(11) + "\n  " + ports(30011), endpoints: []endpoint{
		{addr: onRemote, node: "node-2", conditions: "ready: false, serving: true, terminating: true"},
		{addr: "10.244.1.3", node: "node-2", conditions: "ready: false, serving: false, terminating: true"}}},
	{name: "names", spec: clusterIP(12) + "\n  ports: [{name: http, port: 53, targetPort: 8080, protocol: UDP}]", endpoints: []endpoint{{addr: onRemote, node: "node-2"}}},
	{name: "streams", spec: "type: NodePort\n  " + clusterIP(13) + "\n  ports: [{name: http, port: 9, targetPort: 8080, protocol: SCTP, nodePort: 30013}]",
		endpoints: []endpoint{{addr: onRemote, node: "node-2"}}},
	{name: "zonal", spec: "type: NodePort\n  trafficDistribution: PreferClose\n  " + clusterIP(14) + "\n  " + ports(30014), endpoints: []endpoint{
		{addr: onLocal, node: "node-1", zone: "a", hint: "a"}, {addr: onRemote, node: "node-2", zone: "b", hint: "b"}}},
}

func (s service) yaml() string {
	labels, balancer := "", ""
	if s.label != "" {
		labels = "\n  labels: {" + s.label + "}"
	}
	if s.lb != "" {
		balancer = "\nstatus:\n  loadBalancer:\n    ingress:\n    - ip: " + s.lb
	}
	var b strings.Builder
	fmt.Fprintf(&b, "apiVersion: v1\nkind: Service\nmetadata:\n  name: %s%s\nspec:\n  ipFamilyPolicy: RequireDualStack\n  %s%s\n", s.name, labels, s.spec, balancer)
	for _, family := range []string{"IPv4", "IPv6"} {
		fmt.Fprintf(&b, "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: %[1]s-%[2]s\n  labels: {kubernetes.io/service-name: %[1]s}\naddressType: %[3]s\n",
			s.name, strings.ToLower(family), family)
		protocol := "TCP"
		for _, p := range []string{"UDP", "SCTP"} {
			if strings.Contains(s.spec, p) {
				protocol = p
			}
		}
		fmt.Fprintf(&b, "ports: [{name: http, port: 8080, protocol: %s}]\nendpoints:", protocol)
		if len(s.endpoints) == 0 {
			b.WriteString(" []")
		}
		b.WriteString("\n")
		for _, e := range s.endpoints {
			b.WriteString(e.yaml(family == "IPv6"))
		}
	}
	return b.String()
}

func (e endpoint) yaml(v6 bool) string {
	a := e.addr
	if v6 { // of the same last part, as topo's
		a = strings.NewReplacer("10.244.0.", "fd00:10:244::", "10.244.1.", "fd00:10:244:1::", "192.168.1.", "fd00:192:168:1::", "10.66.0.", "fd00:66::").Replace(a)
	}
	conditions := e.conditions
	if conditions == "" {
		conditions = "ready: true"
	}
	more := ""
	if e.hint != "" {
		more = fmt.Sprintf("\n  zone: %s\n  hints: {forZones: [{name: %s}]}", e.zone, e.hint)
	}
	return fmt.Sprintf("- addresses: [\"%s\"]\n  nodeName: %s\n  conditions: {%s}%s\n", a, e.node, conditions, more)
}

func newSetup(t *testing.T, flags ...string) *setup {
	t.Helper()
	n, err := topo.New(topo.Options{Nodes: 2, XDPPeers: true})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	s := &setup{Network: n, manifests: cluster.Manifests{Dir: t.TempDir()}, node: n.Nodes[0]}
	s.local, s.remote = s.pod(t, 0, "local"), s.pod(t, 1, "remote")
	for _, node := range n.Nodes {
		check(t, s.manifests.WriteNode(node))
	}
	check(t, s.manifests.Write("node-node-1.yaml", nodeYAML(s.node)))
	for _, svc := range services {
		check(t, s.manifests.Write(svc.name+".yaml", svc.yaml()))
	}
	check(t, s.node.Do(func() error { return s.neighbours() }))
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
	check(t, s.agent.Await("the services", func(st *status.Status) bool { return st.Proxy.Services >= 2*(len(services)-1) }))
	check(t, s.agent.AwaitNamespace(s.local))
	if s.laptop, err = n.Laptop.Client(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { check(t, s.laptop.Close()) })
	return s
}

// nodeYAML is node-1's object, with a zone.
func nodeYAML(node *topo.Node) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: %s
  labels: {topology.kubernetes.io/zone: a}
status:
  addresses:
  - {type: InternalIP, address: %s}
  - {type: InternalIP, address: "%s"}
`, node.Name, node.IP4, node.IP6)
}

func (s *setup) pod(t *testing.T, node int, name string) *topo.Pod {
	t.Helper()
	pod, err := s.Nodes[node].AddPod(name, topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{Echo: []uint16{8080}, UDP: []uint16{8080}})
	check(t, err)
	return pod
}

// neighbours has node-1 know where node-2 is, and a route that leads nowhere.
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

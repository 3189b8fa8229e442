// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// bulk is far more than one MSS, and than one GSO packet.
const bulk = 256 << 10

// The services of the matrix: one leads to a pod on the node that clients send to, one to a pod on
// the other node. Each has a cluster IP, a node port and a load balancer address in both families.
const serviceYAML = `apiVersion: v1
kind: Service
metadata:
  name: %[1]s
spec:
  type: LoadBalancer
  selector: {app: %[1]s}
  ipFamilyPolicy: RequireDualStack
  clusterIPs: ["10.96.0.%[2]d", "fd00:10:96::%[2]d"]
  ports:
  - {name: http, port: 80, targetPort: 8080, nodePort: 3000%[2]d}
  - {name: dns, port: 53, targetPort: 5353, protocol: UDP, nodePort: 3000%[2]d}
status:
  loadBalancer:
    ingress:
    - ip: 203.0.113.%[2]d
    - ip: "2001:db8::%[2]d"
`

// target is where a service's pod is, seen from node-1, which all traffic is sent to.
type target struct {
	name   string
	number int
	node   int
}

var targets = []target{{"local", 1, 0}, {"remote", 2, 1}}

// frontend is a way to a service.
type frontend struct {
	name string
	// addr returns the address of one family to connect to.
	addr   func(s *setup, t target, v6 bool) netip.Addr
	port   func(t target, udp bool) uint16
	client func(c *clients) *topo.Client
}

func servicePort(_ target, udp bool) uint16 {
	if udp {
		return 53
	}
	return 80
}

func clusterIP(_ *setup, t target, v6 bool) netip.Addr {
	if v6 {
		return netip.MustParseAddr(fmt.Sprintf("fd00:10:96::%d", t.number))
	}
	return netip.MustParseAddr(fmt.Sprintf("10.96.0.%d", t.number))
}

var frontends = []frontend{
	{
		name: "nodeport",
		addr: func(s *setup, _ target, v6 bool) netip.Addr {
			if v6 {
				return s.Nodes[0].IP6
			}
			return s.Nodes[0].IP4
		},
		port:   func(t target, _ bool) uint16 { return uint16(30000 + t.number) },
		client: func(c *clients) *topo.Client { return c.laptop },
	},
	{"clusterip-socket", clusterIP, servicePort, func(c *clients) *topo.Client { return c.inside }},
	{"clusterip-packet", clusterIP, servicePort, func(c *clients) *topo.Client { return c.outside }},
	{
		name: "lb",
		addr: func(_ *setup, t target, v6 bool) netip.Addr {
			if v6 {
				return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", t.number))
			}
			return netip.MustParseAddr(fmt.Sprintf("203.0.113.%d", t.number))
		},
		port:   servicePort,
		client: func(c *clients) *topo.Client { return c.laptop },
	},
}

// expected lists the counters that must move, and those that must not, for the packets of a flow
// between client and backend: they prove which path the packets took.
func expected(m mode, pods topo.PodNetwork, t target, f frontend, udp bool) (moved, still []string) {
	switch f.name {
	case "clusterip-socket":
		if udp {
			// Connected sockets go by packet, the others by socket.
			return []string{"sock/sock-sendmsg", "sock/sock-recvmsg", "tc-pod/stack", "tc-egress/source"}, []string{"sock/sock-connect"}
		}
		return []string{"sock/sock-connect", "sock/sock-getpeername"}, []string{"tc-pod/stack", "tc-egress/source"}
	case "clusterip-packet":
		return []string{"tc-pod/stack", "tc-egress/source"}, []string{"sock/sock-connect", "tc-ingress/express", "xdp/express"}
	}
	switch {
	case t.name == "local" && m.xdp:
		return []string{"xdp/left-to-tc", "tc-ingress/stack", "tc-egress/source"}, []string{"xdp/express", "tc-ingress/express"}
	case t.name == "local":
		return []string{"tc-ingress/stack", "tc-egress/source"}, []string{"xdp/express", "tc-ingress/express"}
	case pods == topo.VXLAN && m.xdp:
		// XDP can't transmit on tunnels, and leaves these packets to tc.
		return []string{"xdp/left-to-tc", "tc-ingress/express"}, []string{"tc-ingress/stack", "tc-egress/source", "xdp/express"}
	case pods != topo.VXLAN && m.xdp:
		return []string{"xdp/express"}, []string{"tc-ingress/stack", "tc-egress/source"}
	}
	return []string{"tc-ingress/express"}, []string{"tc-ingress/stack", "tc-egress/source", "xdp/express"}
}

// TestMatrix covers {IPv4, IPv6} x {TCP, UDP} x {XDP, tc} x {local, remote routed, remote over
// VXLAN} x {NodePort, ClusterIP by socket, ClusterIP by packet, LB address}.
//
// Contract: 8, 12, 13.
func TestMatrix(t *testing.T) {
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes {
			t.Run(fmt.Sprintf("%s/%s", podNetworkName(pods), m.name), func(t *testing.T) {
				matrix(t, newSetup(t, pods, m), pods, m)
			})
		}
	}
}

func podNetworkName(p topo.PodNetwork) string {
	if p == topo.VXLAN {
		return "vxlan"
	}
	return "routed"
}

func matrix(t *testing.T, s *setup, pods topo.PodNetwork, m mode) {
	backends := map[string]*topo.Pod{}
	for _, target := range targets {
		check(t, s.manifests.Write(target.name+".yaml", fmt.Sprintf(serviceYAML, target.name, target.number)))
		backends[target.name] = s.addPod(t, target.node, target.name, "app: "+target.name)
	}
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitServices(t, 8)

	for _, target := range targets {
		for _, f := range frontends {
			for _, v6 := range []bool{false, true} {
				for _, udp := range []bool{false, true} {
					name := fmt.Sprintf("%s/%s/%s/%s", target.name, f.name, familyName(v6), protoName(udp))
					t.Run(name, func(t *testing.T) {
						cell(t, s, c, m, pods, target, f, backends[target.name], v6, udp)
					})
				}
			}
		}
	}
}

func familyName(v6 bool) string {
	if v6 {
		return "ipv6"
	}
	return "ipv4"
}

func protoName(udp bool) string {
	if udp {
		return "udp"
	}
	return "tcp"
}

// cell sends data in both directions through one combination and checks the counters.
func cell(t *testing.T, s *setup, c *clients, m mode, pods topo.PodNetwork, target target, f frontend, pod *topo.Pod, v6, udp bool) {
	before, err := s.agents[0].Counters()
	check(t, err)
	to := netip.AddrPortFrom(f.addr(s, target, v6), f.port(target, udp))
	cl := f.client(c)
	var replies []topo.Reply
	if udp {
		replies = append(replies,
			cl.UDPConnected(topo.Request{To: to, Size: 1200, Count: 5}),
			cl.UDPUnconnected(topo.Request{To: to, Size: 1200, Count: 5}))
		if got := replies[1].Source; replies[1].OK() && got != to {
			t.Errorf("recvfrom says the answer came from %s, want %s", got, to)
		}
	} else {
		replies = append(replies, cl.Get(topo.Request{To: to}), cl.Post(topo.Request{To: to, Size: bulk}))
		if got := replies[1].Bytes; replies[1].OK() && got != bulk {
			t.Errorf("%d bytes came back, want %d", got, bulk)
		}
	}
	for _, r := range replies {
		checkReply(t, s, r, target, f, pod, to)
	}
	after, err := s.agents[0].Counters()
	check(t, err)
	checkPath(t, after.Since(before), m, pods, target, f, udp)
}

func checkReply(t *testing.T, s *setup, r topo.Reply, target target, f frontend, pod *topo.Pod, to netip.AddrPort) {
	t.Helper()
	if !r.OK() {
		t.Fatalf("no answer: %s", r)
	}
	if r.Pod != pod.Name {
		t.Errorf("answered by %s, want %s", r.Pod, pod.Name)
	}
	if r.Peer.IsValid() && r.Peer != to {
		t.Errorf("getpeername says %s, want %s", r.Peer, to)
	}
	if target.name == "local" || !(f.name == "nodeport" || f.name == "lb") {
		if r.Remote.Addr() != r.Local.Addr() && r.Local.IsValid() && !r.Local.Addr().IsUnspecified() {
			t.Errorf("the pod sees %s, not the client's address %s", r.Remote, r.Local)
		}
	} else if node := s.Nodes[0]; !slices.Contains([]netip.Addr{node.IP4, node.IP6}, r.Remote.Addr()) &&
		!node.PodCIDR4.Contains(r.Remote.Addr()) && !node.PodCIDR6.Contains(r.Remote.Addr()) {
		t.Errorf("the pod on the other node sees %s, not the node that translated", r.Remote)
	}
}

func checkPath(t *testing.T, moved cluster.Counters, m mode, pods topo.PodNetwork, target target, f frontend, udp bool) {
	t.Helper()
	want, still := expected(m, pods, target, f, udp)
	for _, k := range want {
		if moved[k] == 0 {
			t.Errorf("counter %s did not move: %v", k, moved)
		}
	}
	for _, k := range still {
		// The first packets of an express flow may go by tc, to resolve a neighbour.
		if moved[k] > 0 {
			t.Errorf("counter %s moved by %d: %v", k, moved[k], moved)
		}
	}
	for k, n := range moved {
		if strings.Contains(k, "/drop") || strings.Contains(k, "refused") {
			t.Errorf("%d packets ended in %s", n, k)
		}
	}
}

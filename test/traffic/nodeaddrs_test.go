// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestNodeIsEndpoint, of contract 11: NodePorts answer on one of the node's addresses. A server of
// the node that listens on another address is still reached through its service, even if its
// endpoint does not name this node.
func TestNodeIsEndpoint(t *testing.T) {
	for _, m := range modes[:2] {
		t.Run(m.name, func(t *testing.T) { nodeIsEndpoint(t, m) })
	}
}

func nodeIsEndpoint(t *testing.T, m mode) {
	s := newSetupOf(t, 1, topo.Routed, m)
	node := s.Nodes[0].Host
	check(t, s.AddEthernet(node))
	_, err := node.Serve(podPorts)
	check(t, err)
	api := service{name: "api", number: 1}
	for _, v6 := range bothFamilies {
		check(t, s.manifests.Write(fmt.Sprintf("slice-v6-%t.yaml", v6), sliceYAML(api.name, second(node, v6))))
	}
	s.addService(t, api)
	check(t, s.agents[0].Start(fmt.Sprintf("--nodeport-addresses=%s,%s", topo.Single(node.IP4), topo.Single(node.IP6))))
	s.awaitServices(t, portsOfService)
	c := client(t, s.Laptop)
	for _, v6 := range bothFamilies {
		tcp, udp := api.nodePort(addrOf(node, v6), http), api.nodePort(addrOf(node, v6), dns)
		checkAnswers(t, "NodePort", node.Name, exchanges(c, topo.Request{To: tcp}, topo.Request{To: udp}), tcp, udp)
	}
}

// sliceYAML is a slice written by hand, without names of nodes.
func sliceYAML(service string, addr netip.Addr) string {
	family := "IPv4"
	if addr.Is6() {
		family = "IPv6"
	}
	return fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s-%[2]s
  labels: {kubernetes.io/service-name: %[1]s}
addressType: %[3]s
ports:
- {name: http, port: 8080, protocol: TCP}
- {name: echo, port: 7070, protocol: TCP}
- {name: dns, port: 5353, protocol: UDP}
endpoints:
- addresses: ["%[4]s"]
`, service, map[bool]string{false: "four", true: "six"}[addr.Is6()], family, addr)
}

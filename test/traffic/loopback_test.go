// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestBoundToLoopback, of contract 60: a process of the node that has bound its socket to the
// loopback address reaches a service by the endpoints that are the node itself. If there are none,
// the call fails at once: no packet with that source leaves the node.
func TestBoundToLoopback(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	node := s.Nodes[0]
	web := service{name: "web", number: 1}
	hosted, mixed := service{name: "hosted", number: 2}, service{name: "mixed", number: 3}
	for _, svc := range []service{web, hosted, mixed} {
		s.addService(t, svc)
	}
	s.addPod(t, 0, "web-a", "app: web")
	s.addPod(t, 1, "web-b", "app: web")
	s.addPod(t, 0, "mixed-a", "app: mixed")
	s.addPod(t, 1, "mixed-b", "app: mixed")
	_, err := node.Serve(podPorts)
	check(t, err)
	for _, app := range []string{"hosted", "mixed"} { // pods with hostNetwork
		host := &topo.Host{Name: app + "-host", IP4: node.IP4, IP6: node.IP6}
		check(t, s.manifests.WritePod(&topo.Pod{Host: host, Node: node}, "app: "+app))
	}
	s.startAgents(t)
	s.awaitServices(t, 3*portsOfService)
	process := client(t, node.Host)
	for _, addr := range []string{"127.0.0.1", "::1"} {
		source := netip.MustParseAddr(addr)
		for range 10 { // the choice is random
			for _, svc := range []service{hosted, mixed} {
				tcp, udp := svc.nodePort(source, http), svc.nodePort(source, dns)
				replies := exchanges(process, topo.Request{To: tcp, Source: source}, topo.Request{To: udp, Source: source})
				checkAnswers(t, "from "+addr, node.Name, replies, tcp, udp)
			}
		}
		for how, r := range map[string]topo.Reply{
			"tcp":             process.Connect(topo.Request{To: web.nodePort(source, http), Source: source}),
			"udp-connected":   process.UDPConnected(topo.Request{To: web.nodePort(source, dns), Source: source}),
			"udp-unconnected": process.UDPUnconnected(topo.Request{To: web.nodePort(source, dns), Source: source}),
		} {
			if r.Errno != "ENETUNREACH" {
				t.Errorf("%s from %s to pods: %s, want ENETUNREACH", how, addr, r)
			}
		}
		// A process that has not chosen its source is served by all endpoints.
		tcp := topo.Request{To: web.nodePort(source, http)}
		check(t, process.Get(tcp).Error())
	}
}

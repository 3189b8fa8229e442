// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestRefuse, of contract 20: a service with no endpoints anywhere refuses at once, on every
// frontend. It works as soon as there is an endpoint, and refuses again when that has gone.
//
// Contract: 20.
func TestRefuse(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) { refuse(t, m) })
	}
}

func refuse(t *testing.T, m mode) {
	s := newSetup(t, topo.Routed, m)
	web := service{name: "web", number: 1}
	s.addService(t, web)
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	for node := range s.Nodes {
		checkRefused(t, web, ways)
		pod := s.addPod(t, node, "web-"+s.Nodes[node].Name, "app: web")
		s.awaitPods(t, web, pod)
		checkServed(t, web, ways)
		check(t, s.manifests.Remove("pod-"+pod.Name+".yaml"))
		s.awaitPods(t, web)
	}
	checkRefused(t, web, ways)
}

// asks are the requests that return an error when they are refused.
func asks(svc service, w way, v6 bool) map[string]func() topo.Reply {
	tcp, udp := topo.Request{To: w.to(svc, http, v6)}, topo.Request{To: w.to(svc, dns, v6)}
	return map[string]func() topo.Reply{
		"tcp": func() topo.Reply { return w.client.Get(tcp) },
		"udp": func() topo.Reply { return w.client.UDPConnected(udp) },
	}
}

func checkRefused(t *testing.T, svc service, ways []way) {
	t.Helper()
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			for proto, ask := range asks(svc, w, v6) {
				if reply := ask(); reply.Errno != "ECONNREFUSED" {
					t.Errorf("%s/%s/%s with no endpoints: %s, want ECONNREFUSED", w.name, familyName(v6), proto, reply)
				}
			}
		}
	}
}

func checkServed(t *testing.T, svc service, ways []way) {
	t.Helper()
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			for proto, ask := range asks(svc, w, v6) {
				if reply := ask(); !reply.OK() {
					t.Errorf("%s/%s/%s: %s", w.name, familyName(v6), proto, reply)
				}
			}
		}
	}
}

// TestRefuseSendto: where a socket hook sees it, even an unconnected socket gets the refusal at
// once.
func TestRefuseSendto(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	s.addService(t, web)
	c := s.addClients(t)
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	for _, v6 := range bothFamilies {
		reply := c.inside.UDPUnconnected(topo.Request{To: web.clusterIP(dns, v6)})
		if reply.Errno != "ECONNREFUSED" {
			t.Errorf("%s: %s, want ECONNREFUSED", familyName(v6), reply)
		}
	}
}

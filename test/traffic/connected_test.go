// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// TestConnectedUDP, of contract 53: a connected UDP socket of a pod goes by packet, and its
// application sees no difference. Its peer is the service's address, what it sends by name goes to
// its peer, and a closed port and a service without endpoints are reported at once.
func TestConnectedUDP(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web, none := service{name: "web", number: 1}, service{name: "none", number: 2}
	s.addService(t, web)
	s.addService(t, none)
	pods := []*topo.Pod{s.addPod(t, 0, "web-a", "app: web"), s.addPod(t, 1, "web-b", "app: web")}
	shut := service{name: "shut", number: 3}
	s.addService(t, shut)
	closed, err := s.Nodes[1].AddPod("shut", topo.PodOptions{}) // serves nothing
	check(t, err)
	check(t, s.manifests.WritePod(closed, "app: shut"))
	c := s.addClients(t)
	ways := []way{{"pod", c.inside, service.clusterIP}, s.nodeProcess(t)}
	s.startAgents(t)
	s.awaitPods(t, web, pods...)
	s.awaitPods(t, shut, closed)
	for _, w := range ways {
		for _, v6 := range bothFamilies {
			to := web.clusterIP(dns, v6)
			for range 5 { // the choice is random
				reply := w.client.UDPConnected(topo.Request{To: to, Count: 5, ByName: true, Size: 100})
				if !reply.OK() || reply.Peer != to || reply.Source != to {
					t.Errorf("%s to %s: %s", w.name, to, reply)
				}
			}
			if r := w.client.UDPConnected(topo.Request{To: none.clusterIP(dns, v6)}); r.Errno != "ECONNREFUSED" || r.Peer.IsValid() {
				t.Errorf("%s to no endpoint: %s, want ECONNREFUSED of connect", w.name, r)
			}
			if r := w.client.UDPConnected(topo.Request{To: shut.clusterIP(dns, v6)}); r.Errno != "ECONNREFUSED" {
				t.Errorf("%s to a closed port: %s, want ECONNREFUSED", w.name, r)
			}
		}
	}
}

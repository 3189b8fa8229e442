// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// fragmented is the size of a datagram that needs more than five packets.
const fragmented = 8000

// TestFragmentedUDP, of contract 40: datagrams larger than the MTU arrive whole, in both
// directions, through every frontend.
func TestFragmentedUDP(t *testing.T) {
	for _, pods := range []topo.PodNetwork{topo.Routed, topo.VXLAN} {
		for _, m := range modes {
			t.Run(fmt.Sprintf("%s/%s", podNetworkName(pods), m.name), func(t *testing.T) { fragmentedUDP(t, pods, m) })
		}
	}
}

func fragmentedUDP(t *testing.T, pods topo.PodNetwork, m mode) {
	s := newSetup(t, pods, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	ways := s.ways(s.addClients(t))
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	before, err := s.agents[0].Counters()
	check(t, err)
	for _, svc := range services {
		for _, w := range ways {
			for _, v6 := range bothFamilies {
				t.Run(fmt.Sprintf("%s/%s/%s", svc.name, w.name, familyName(v6)), func(t *testing.T) {
					fragmentedTo(t, w.client, svc.name, w.to(svc, dns, v6))
				})
			}
		}
	}
	after, err := s.agents[0].Counters()
	check(t, err)
	moved := after.Since(before)
	if m.xdp && moved["xdp/fragment"] == 0 {
		t.Errorf("XDP saw no fragment: %v", moved)
	}
	for k, n := range moved {
		if strings.Contains(k, "/drop") { // unparsed packets may be others: the kernels' multicast reports
			t.Errorf("%d packets ended in %s", n, k)
		}
	}
}

// fragmentedTo: the first datagram may be lost, because it may be the one that shows the client a
// smaller MTU (only senders fragment IPv6 packets). All later ones arrive.
func fragmentedTo(t *testing.T, c *topo.Client, pod string, to netip.AddrPort) {
	t.Helper()
	stream, r := c.OpenUDP(topo.Request{To: to, Timeout: time.Second})
	if !r.OK() {
		t.Fatal(r)
	}
	defer stream.Close()
	if r = stream.Exchange(fragmented); !r.OK() && !r.Timeout && r.Errno != "EMSGSIZE" {
		t.Fatal(r)
	}
	for i := range 4 {
		if r = stream.Exchange(fragmented + i); !r.OK() || r.Pod != pod {
			t.Fatalf("datagram %d of %d bytes to %s: %s", i, fragmented+i, to, r)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

// tunnelRules are rules that owners of nodes may have for a tunnel.
var tunnelRules = []struct{ name, rules string }{
	{"masquerade", `table inet owner {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.244.0.0/16 ip daddr 10.244.0.0/16 return
		ip6 saddr fd00:10:244::/48 ip6 daddr fd00:10:244::/48 return
		oifname "vxlan0" masquerade fully-random
	}
}`},
	{"snat", `table inet owner {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "vxlan0" ip daddr 10.244.0.0/16 ip saddr != 10.244.0.0/16 snat ip to 192.168.1.2
		oifname "vxlan0" ip6 daddr fd00:10:244::/48 ip6 saddr != fd00:10:244::/48 snat ip6 to fd00:192:168:1::2
	}
}`},
	{"stateful", `table inet owner {
	chain forward {
		type filter hook forward priority filter; policy drop;
		ct state invalid drop
		ct state { established, related } accept
		meta l4proto ipv6-icmp accept
		ct state new ip daddr 10.244.0.0/16 accept
		ct state new ip6 daddr fd00:10:244::/48 accept
	}
}`},
}

// TestRulesOfTunnels: rules of the node's owner that rewrite what leaves by a
// tunnel, or that drop packets without a connection of which they have seen
// both directions.
//
// Contract: 47, 48.
func TestRulesOfTunnels(t *testing.T) {
	needNFT(t)
	for _, m := range modes[:2] {
		for _, r := range tunnelRules {
			t.Run(m.name+"/"+r.name, func(t *testing.T) { rulesOfTunnels(t, m, r.rules) })
		}
	}
}

func rulesOfTunnels(t *testing.T, m mode, rules string) {
	s := newSetup(t, topo.VXLAN, m)
	services := []service{{name: "local", number: 1}, {name: "remote", number: 2}}
	for node, svc := range services {
		s.addService(t, svc)
		s.addPod(t, node, svc.name, "app: "+svc.name)
	}
	nft(t, s.Nodes[0].Host, rules)
	c := s.addClients(t)
	other := client(t, s.Nodes[1].Host)
	s.startAgents(t)
	s.awaitServices(t, len(services)*portsOfService)
	connectAll(t, services, s.ways(c))
	for _, svc := range services {
		for _, v6 := range bothFamilies {
			to := svc.nodePort(addrOf(s.Nodes[0].Host, v6), http)
			for name, asks := range map[string]*topo.Client{"laptop": c.laptop, "the other node": other} {
				r := asks.Post(topo.Request{To: to, Size: bulk})
				if !r.OK() || r.Pod != svc.name || r.Bytes != bulk {
					t.Errorf("%d bytes from %s to %s: %s", bulk, name, to, r)
				}
				if inPods(r.Remote.Addr()) && svc.name == "local" && name == "laptop" {
					t.Errorf("%s sees the laptop as %s", svc.name, r.Remote)
				}
			}
		}
	}
}

func inPods(a netip.Addr) bool {
	return netip.MustParsePrefix("10.244.0.0/16").Contains(a) || netip.MustParsePrefix("fd00:10:244::/48").Contains(a)
}

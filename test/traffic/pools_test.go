// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

const lanPool = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: lan, namespace: metallb-system}
spec: {addresses: [203.0.113.40-203.0.113.47, "2001:db8::40/125"]}
`

// TestAddressesFromPool: nodes that share a directory give a Service the same addresses, which are served; neither a
// restart of all agents nor a pool that is spoilt, and then gone, changes that.
func TestAddressesFromPool(t *testing.T) {
	s := newSetup(t, topo.Routed, modes[1])
	web := service{name: "web", number: 1}
	given, _, _ := strings.Cut(web.yaml(), "status:")
	check(t, s.manifests.Write("web.yaml", given))
	check(t, s.manifests.Write("pool.yaml", lanPool))
	s.addPod(t, 1, "web-a", "app: web")
	clients := s.addClients(t)
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	addresses := s.pooled(t)
	if len(addresses) != 2 || addresses[0].Pool != "IPAddressPool metallb-system/lan" || addresses[0].Since.IsZero() {
		t.Fatalf("addresses %+v", addresses)
	}
	served := func(when string) {
		t.Helper()
		if diff := cmp.Diff(addresses, s.pooled(t), cmp.FilterPath(func(p cmp.Path) bool { return p.String() == "PoolGone" }, cmp.Ignore())); diff != "" {
			t.Errorf("%s (-before +after):\n%s", when, diff)
		}
		for _, a := range addresses {
			if reply := clients.laptop.Get(topo.Request{To: netip.AddrPortFrom(netip.MustParseAddr(a.Address), http.number)}); !reply.OK() {
				t.Errorf("%s: %s: %s", when, a.Address, reply)
			}
		}
	}
	served("at first")

	check(t, s.manifests.Write("pool.yaml", strings.Replace(lanPool, "203.0.113.40-", "203.0.113.400-", 1)))
	for _, a := range s.agents {
		check(t, a.Await("a problem of the pool", func(st *status.Status) bool {
			return len(st.Problems) == 1 && st.Problems[0].Object == "IPAddressPool metallb-system/lan" && st.Problems[0].Field == "spec.addresses[0]"
		}))
	}
	served("with a malformed pool")

	for _, a := range s.agents {
		check(t, a.Stop())
	}
	check(t, s.manifests.Remove("pool.yaml"))
	s.startAgents(t)
	s.awaitServices(t, portsOfService)
	for _, a := range s.agents {
		check(t, a.Await("the addresses to be reported as kept", func(st *status.Status) bool {
			return len(st.Problems) == 2 && strings.HasSuffix(st.Problems[0].Message, "is kept though no pool has it any more: it is from IPAddressPool metallb-system/lan")
		}))
	}
	served("without the pool")
}

// pooled are the addresses of pools, on which all nodes must agree.
func (s *setup) pooled(t *testing.T) (all []status.Address) {
	t.Helper()
	for i, a := range s.agents {
		out, err := a.CLI("address", "list", "-o", "json")
		check(t, err)
		var list []status.Address
		check(t, json.Unmarshal([]byte(out), &list))
		if i > 0 && !cmp.Equal(all, list) {
			t.Errorf("%s has %+v, %s has %+v", s.agents[0].Node.Name, all, a.Node.Name, list)
		}
		all = list
	}
	return all
}

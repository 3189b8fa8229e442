// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

func poolYAML(name, addresses string) string {
	return fmt.Sprintf("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: %s, namespace: metallb-system}\nspec: {addresses: [%s]}\n", name, addresses)
}

func balancerYAML(name, more string) string {
	return serviceYAML(name, "type: LoadBalancer\nports: [{port: 80}]\n"+more)
}

// wantIngress compares the addresses that load balancers have, as "name address..".
func wantIngress(t *testing.T, b *bench, want ...string) {
	t.Helper()
	var got []string
	for _, w := range want {
		name, _, _ := strings.Cut(w, " ")
		line := name
		if s := b.services["default/"+name]; s != nil {
			for _, i := range s.Status.LoadBalancer.Ingress {
				if line += " " + i.IP; i.IPMode == nil || *i.IPMode != v1.LoadBalancerIPModeVIP {
					line += " not VIP"
				}
			}
		}
		got = append(got, line)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("addresses (-want +got):\n%s", diff)
	}
}

func TestPools(t *testing.T) {
	b := newBench(newDirectory(t, "pool.yaml", poolYAML("first", "192.0.2.1/32"), "m.yaml", balancerYAML("m", "")))
	b.look()
	wantIngress(t, b, "m 192.0.2.1")
	wantProblems(t, b.path, b.problems.list())
	if list := b.state.addresses; len(list) != 1 || list[0].Address != "192.0.2.1" || list[0].Pool != "IPAddressPool metallb-system/first" ||
		!slices.Equal(list[0].Services, []string{"default/m"}) || list[0].Since.IsZero() {
		t.Errorf("addresses %+v", list)
	}

	b.write("b.yaml", balancerYAML("b", "")) // whatever its name, it comes later
	wantCalls(t, b.look(), "add Service default/b")
	wantIngress(t, b, "m 192.0.2.1", "b")
	wantProblems(t, b.path, b.problems.list(), "b.yaml:1 Service default/b spec.type: no pool gives it an address: IPAddressPool metallb-system/first is exhausted (spec.addresses)")

	b.write("pool.yaml", poolYAML("first", "192.0.2.9/32")) // edited: what is in use stays
	wantCalls(t, b.look(), "update Service default/b")
	wantIngress(t, b, "m 192.0.2.1", "b 192.0.2.9")
	wantProblems(t, b.path, b.problems.list(), "m.yaml:1 Service default/m status.loadBalancer: 192.0.2.1 is kept though no pool has it any more: it is from IPAddressPool metallb-system/first")

	b.write("pool.yaml", strings.Replace(poolYAML("first", "oops"), "addresses", "adresses", 1)) // the last good state stays
	wantCalls(t, b.look())
	wantProblems(t, b.path, b.problems.list(),
		"m.yaml:1 Service default/m status.loadBalancer: ",
		"pool.yaml:1 IPAddressPool metallb-system/first spec.addresses: Required value",
		"pool.yaml:1 IPAddressPool metallb-system/first spec.adresses: unknown field")

	b.remove("pool.yaml")
	wantCalls(t, b.look())
	wantIngress(t, b, "m 192.0.2.1", "b 192.0.2.9")

	b.write("b.yaml", serviceYAML("b", onePort)) // no load balancer any more
	wantCalls(t, b.look(), "update Service default/b")
	wantIngress(t, b, "m 192.0.2.1", "b")
	b.remove("m.yaml")
	b.look()
	if strings.Contains(b.read(b.allocations()), "loadBalancerIPs") {
		t.Errorf("addresses of Services that are gone are kept: %s", b.read(b.allocations()))
	}
}

// TestPoolsOfCilium: a pool in either version, from a list, and Services that share.
func TestPoolsOfCilium(t *testing.T) {
	const lists = `apiVersion: cilium.io/v2alpha1
kind: CiliumLoadBalancerIPPoolList
items:
- metadata: {name: blue}
  spec: {blocks: [{cidr: 192.0.2.4/32}, {start: "2001:db8::4"}], serviceSelector: {matchLabels: {io.kubernetes.service.name: a}}}
---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: red}
spec: {blocks: [{start: 192.0.2.8, stop: 192.0.2.9}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: all}
spec: {loadBalancerIPs: true}
`
	sharing := "apiVersion: v1\nkind: Service\nmetadata: {name: %s, annotations: {lbipam.cilium.io/sharing-key: k, lbipam.cilium.io/ips: 192.0.2.9}}\nspec: {type: LoadBalancer, ports: [{port: %d}]}\n"
	b := newBench(newDirectory(t, "pools.yaml", lists, "a.yaml", balancerYAML("a", "ipFamilyPolicy: RequireDualStack"),
		"b.yaml", fmt.Sprintf(sharing, "b", 80), "c.yaml", fmt.Sprintf(sharing, "c", 81)))
	b.look()
	wantProblems(t, b.path, b.problems.list())
	wantIngress(t, b, "a 192.0.2.4 2001:db8::4", "b 192.0.2.9", "c 192.0.2.9")
	if set, _ := b.state.pools(); !set.Announces(pools.KindCiliumL2Announcement) {
		t.Error("nothing has addresses announced")
	}
	if notices := b.state.tree.notices(); len(notices) > 0 {
		t.Errorf("notices %q", notices)
	}
}

// TestPoolsByNamespace: labels of namespaces are those of Namespace manifests.
func TestPoolsByNamespace(t *testing.T) {
	const pool = `apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: blue, namespace: metallb-system}
spec: {addresses: [192.0.2.1/32], serviceAllocation: {namespaceSelectors: [{matchLabels: {colour: blue}}]}}
`
	b := newBench(newDirectory(t, "pool.yaml", pool, "a.yaml", balancerYAML("a", "")))
	b.look()
	wantIngress(t, b, "a")
	b.write("namespace.yaml", "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {colour: blue}}\n")
	b.look()
	wantIngress(t, b, "a 192.0.2.1")
}

// TestGivenAddressesStay: what a manifest gives is neither changed nor given to another.
func TestGivenAddressesStay(t *testing.T) {
	given := balancerYAML("a", "") + "status: {loadBalancer: {ingress: [{ip: 192.0.2.1}]}}\n"
	b := newBench(newDirectory(t, "pool.yaml", poolYAML("first", "192.0.2.1/32"), "a.yaml", given, "b.yaml", balancerYAML("b", "")))
	b.look()
	if got := b.services["default/a"].Status.LoadBalancer.Ingress; len(got) != 1 || got[0].IP != "192.0.2.1" {
		t.Errorf("a has %+v", got)
	}
	wantIngress(t, b, "b")
	if strings.Contains(b.read(b.allocations()), "loadBalancerIPs") {
		t.Errorf("what stands in a manifest is kept beside it: %s", b.read(b.allocations()))
	}
	b.write("a.yaml", balancerYAML("a", "loadBalancerIP: 203.0.113.1")) // of no pool: the author has it routed here
	b.look()
	wantIngress(t, b, "b 192.0.2.1")
	if got := b.services["default/a"].Status.LoadBalancer.Ingress; len(got) != 1 || got[0].IP != "203.0.113.1" {
		t.Errorf("a has %+v", got)
	}
}

// TestPooledAddressesAreKept over restarts, also where the name alone would lead to others.
func TestPooledAddressesAreKept(t *testing.T) {
	d := newDirectory(t, "pool.yaml", poolYAML("first", "192.0.2.0/30"))
	b := newBench(d)
	b.look()
	names := []string{"d", "c", "b", "a"} // not in the order of names: each comes when the others have theirs
	want := make([]string, len(names))
	for i, name := range names {
		b.write(name+".yaml", balancerYAML(name, ""))
		b.look()
		want[i] = name + " " + b.services["default/"+name].Status.LoadBalancer.Ingress[0].IP
	}
	again := newBench(d)
	again.look()
	wantIngress(t, again, want...)
	if !slices.EqualFunc(b.state.addresses, again.state.addresses, func(x, y status.Address) bool { return x.Since.Equal(y.Since) && x.Address == y.Address }) {
		t.Errorf("addresses %+v, then %+v", b.state.addresses, again.state.addresses)
	}
	if !strings.Contains(b.read(b.allocations()), `"version": 2`) {
		t.Error("an agent that does not know of addresses would drop them")
	}

	// Without the file, and with the same manifests, nodes come to the same addresses.
	b.must(os.Remove(b.allocations()))
	one, other := newBench(newDirectory(t)), newBench(newDirectory(t))
	for _, x := range []*bench{one, other} {
		b.must(os.CopyFS(x.path, os.DirFS(b.path)))
		x.look()
	}
	for _, name := range names {
		if x, y := one.services["default/"+name].Status, other.services["default/"+name].Status; !cmp.Equal(x, y) {
			t.Errorf("%s: %+v on one node, %+v on the other", name, x, y)
		}
	}
}

// TestTwoAgentsShareAddresses: agents with one file give no address twice, though each sees another half of the Services.
func TestTwoAgentsShareAddresses(t *testing.T) {
	pool := poolYAML("first", "192.0.2.0/31")
	one, other := newDirectory(t, "pool.yaml", pool, "a.yaml", balancerYAML("a", "")), newDirectory(t, "pool.yaml", pool, "b.yaml", balancerYAML("b", ""))
	opts := other.options()
	opts.AllocationFile = one.path + "/" + allocationFileName
	x, y := newBench(one), newBenchWith(other, opts)
	x.look()
	y.look()
	a, b := x.services["default/a"].Status.LoadBalancer.Ingress, y.services["default/b"].Status.LoadBalancer.Ingress
	if len(a) != 1 || len(b) != 1 || a[0].IP == b[0].IP {
		t.Errorf("a has %+v, b has %+v", a, b)
	}
}

// TestSince: an address that a Service has had keeps its time when another one is added.
func TestSince(t *testing.T) {
	four, six := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")
	from, _ := pools.ParseRef("IPAddressPool ns/first")
	e := entry{}.hold([]pools.Held{{Addr: four, From: from}}, time.Unix(1000, 0))
	e = e.hold([]pools.Held{{Addr: four, From: from}, {Addr: six, From: from}}, time.Unix(2000, 0))
	if got := e.LoadBalancerIPs; len(got) != 2 || got[0].Since.Unix() != 1000 || got[1].Since.Unix() != 2000 {
		t.Errorf("%+v", got)
	}
}

func TestPoolsMisspelt(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{strings.Replace(poolYAML("a", "192.0.2.1/32"), "v1beta1", "v1beta2", 1), `a.yaml:1  apiVersion: Unsupported value: "metallb.io/v1beta2": supported values: "metallb.io/v1beta1"`},
		{strings.Replace(poolYAML("a", "192.0.2.1/32"), "IPAddressPool", "IpAddressPool", 1), `a.yaml:1  kind: Unsupported value: "IpAddressPool": is IPAddressPool meant?`},
		{strings.Replace(poolYAML("a", "192.0.2.1/32"), "name: a", "name: a b", 1), `a.yaml:1 IPAddressPool metallb-system/a b metadata.name: Invalid value: "a b"`},
		{poolYAML("a", "{}"), "a.yaml:1 IPAddressPool metallb-system/a spec.addresses[0]: can't be read: object is not of type string"},
	} {
		b := newBench(newDirectory(t, "a.yaml", c.text))
		b.look()
		wantProblems(t, b.path, b.problems.list(), c.want)
	}
	b := newBench(newDirectory(t, "a.yaml", "apiVersion: metallb.io/v1beta2\nkind: BGPPeer\nmetadata: {name: a}\n"))
	b.look()
	wantProblems(t, b.path, b.problems.list())
	if got := b.state.tree.notices(); len(got) != 1 || !strings.Contains(got[0], "1 metallb.io/v1beta2 BGPPeer") {
		t.Errorf("notices %q", got)
	}
}

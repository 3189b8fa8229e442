// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// ranges reads a service's source ranges, as the programs look them up.
func (f *fixture) ranges(svc plan.Service) []string {
	f.t.Helper()
	all, err := maps.NewSources(f.maps).All()
	f.must(err)
	var out []string
	for _, p := range all[f.r.services[svc.Name].id] {
		out = append(out, p.String())
	}
	slices.Sort(out)
	return out
}

func (f *fixture) expectRanges(svc plan.Service, want ...string) {
	f.t.Helper()
	if diff := gocmp.Diff(want, f.ranges(svc), cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("source ranges (-want +got):\n%s", diff)
	}
}

// Row 18. Ranges are written before a frontend uses them, and stay until no frontend does. So on
// the way no client is shut out or let in that isn't before or after.
func TestSourceRanges(t *testing.T) {
	f := newFixture(t, nil)
	balanced := func(edits ...func(*plan.Service)) plan.Service {
		return web(append([]func(*plan.Service){at(maps.LoadBalancer, "192.0.2.1"), to("10.1.0.1")}, edits...)...)
	}
	lb := balanced().Frontends[1].Frontend
	open, one := balanced(), balanced(guarded("203.0.113.0/24"))
	two := balanced(guarded("203.0.113.0/24", "10.0.0.0/8"))
	other := balanced(guarded("10.0.0.0/8"))
	f.before = func() {
		all, err := maps.NewServices(f.maps).All()
		f.must(err)
		if all[lb].SourceRanges && len(f.ranges(open)) == 0 {
			t.Error("a guarded frontend has no ranges on the way")
		}
	}
	for _, step := range []struct {
		svc    plan.Service
		writes Writes
		ranges []string
	}{
		{open, Writes{Frontends: 2, Backends: 1, Blocks: 1, Names: 1}, nil},
		{one, Writes{Frontends: 1, Ranges: 1}, []string{"203.0.113.0/24"}},
		{two, Writes{Ranges: 1}, []string{"10.0.0.0/8", "203.0.113.0/24"}},
		{two, Writes{}, []string{"10.0.0.0/8", "203.0.113.0/24"}},
		{other, Writes{Ranges: 1}, []string{"10.0.0.0/8"}},
		{one, Writes{Ranges: 2}, []string{"203.0.113.0/24"}},
		{open, Writes{Frontends: 1, Ranges: 1}, nil},
		{two, Writes{Frontends: 1, Ranges: 2}, []string{"10.0.0.0/8", "203.0.113.0/24"}},
	} {
		expectWrites(t, fmt.Sprint(step.svc.SourceRanges), f.written(step.svc), step.writes)
		f.expectRanges(step.svc, step.ranges...)
		f.expectAgreement()
	}
	f.restart()
	expectWrites(t, "after a restart", f.written(two), Writes{})
	f.must(f.r.Delete(two.Name))
	f.before = nil
	f.expectNoLeak()
}

// A frontend that can't be opened keeps its ranges. Ranges are removed even if another frontend
// fails.
func TestSourceRangesOfFailure(t *testing.T) {
	f := newFixture(t, nil)
	lb := at(maps.LoadBalancer, "192.0.2.1")
	two := web(lb, guarded("203.0.113.0/24", "10.0.0.0/8"))
	f.apply(two)
	undo := f.maps.ReadOnly(t, "services4")
	expectError(t, f.r.Apply(web(lb)), "192.0.2.1:80/TCP", "not permitted")
	f.expectRanges(two, "10.0.0.0/8", "203.0.113.0/24")
	undo()
	f.apply(named("first", "10.96.0.9", at(maps.ExternalIP, "192.0.2.9")))
	expectError(t, f.r.Apply(web(lb, at(maps.ExternalIP, "192.0.2.9"), guarded("10.0.0.0/8"))), "192.0.2.9:80/TCP belongs to")
	f.expectRanges(two, "10.0.0.0/8")
	f.apply(web(lb))
	f.expectRanges(two)
	f.expectNoLeak()
}

// The reconciler does not own the cluster's own addresses.
func TestHealSourceRanges(t *testing.T) {
	f := newFixture(t, nil)
	svc := web(at(maps.LoadBalancer, "192.0.2.1"), guarded("203.0.113.0/24"))
	f.apply(svc)
	sources := maps.NewSources(f.maps)
	pods := netip.MustParsePrefix("10.244.0.0/16")
	f.must(sources.Put(maps.LocalSources, pods))
	f.must(sources.Put(4711, pods))
	f.must(sources.Put(f.r.services[svc.Name].id, pods))
	f.restart()
	f.apply(svc)
	f.expectAgreement()
	f.expectRanges(svc, "203.0.113.0/24")
	all, err := sources.All()
	f.must(err)
	if got := all[maps.LocalSources]; len(got) != 1 || got[0] != pods {
		t.Errorf("the cluster's own addresses: %v", got)
	}
}

func TestAffinity(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(web(to("10.1.0.1"), remembering(10800)))
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080; affinity 10800 s")
	f.restart()
	expectWrites(t, "after a restart", f.written(web(to("10.1.0.1"), remembering(10800))), Writes{})
	expectWrites(t, "another timeout", f.written(web(to("10.1.0.1"), remembering(60))), Writes{Frontends: 1})
	f.apply(web(to("10.1.0.1")))
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080")
}

func prefixes(all ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// expectClusterRanges marks ranges whose unallocated addresses are silent with a "!".
func (f *fixture) expectClusterRanges(want ...string) {
	f.t.Helper()
	ranges, err := maps.NewClusterAddrs(f.maps).Ranges()
	f.must(err)
	var got []string
	for _, r := range ranges {
		s := r.Prefix.String()
		if r.Drop {
			s += "!"
		}
		got = append(got, s)
	}
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("cluster ranges (-want +got):\n%s", diff)
	}
}

// Row 21: a cluster IP is live as long as any port of any service has it.
func TestClusterIPs(t *testing.T) {
	f := newFixture(t, nil)
	web, dns := named("web", "10.96.0.1"), named("dns", "10.96.0.1")
	dns.Frontends[0].Port = 53
	f.apply(web, dns, named("lb", "10.96.0.7", at(maps.LoadBalancer, "192.0.2.1"), at(maps.NodePort, "0.0.0.0")), named("six", "fd00:96::1"))
	expect := func(addrs ...string) {
		t.Helper()
		want := map[netip.Addr]bool{}
		for _, a := range addrs {
			want[netip.MustParseAddr(a)] = true
		}
		f.expectClusterIPs(want)
	}
	expect("10.96.0.1", "10.96.0.7", "fd00:96::1")
	f.must(f.r.Delete(web.Name))
	expect("10.96.0.1", "10.96.0.7", "fd00:96::1")
	f.restart()
	expect("10.96.0.1", "10.96.0.7", "fd00:96::1")
	f.must(f.r.Delete(dns.Name))
	expect("10.96.0.7", "fd00:96::1")
	f.apply(named("six", "fd00:96::2"))
	expect("10.96.0.7", "fd00:96::2")
	f.must(maps.NewClusterAddrs(f.maps).Put(netip.MustParseAddr("10.96.0.66"))) // left over, by an unknown program
	f.restart()
	expect("10.96.0.7", "fd00:96::2")
	f.expectNoLeak()
	expect()
}

// During a rename the address stays live.
func TestClusterIPHandOver(t *testing.T) {
	f := newFixture(t, nil)
	older, newer := named("older", "10.96.0.1"), named("newer", "10.96.0.1")
	f.apply(older)
	f.r.Leave([]maps.Name{older.Name})
	f.apply(newer)
	f.expectAgreement()
	f.must(f.r.Delete(older.Name))
	f.expectAgreement()
	f.must(f.r.Delete(newer.Name))
	f.expectAgreement()
}

// Rows 21 and 22: without service CIDRs, ranges hold all live addresses, and not much more.
func TestClusterRanges(t *testing.T) {
	f := newFixture(t, nil)
	f.expectClusterRanges()
	f.apply(named("a", "10.96.0.1"))
	f.expectClusterRanges("10.96.0.1/32")
	f.apply(named("b", "10.96.0.6"), named("c", "fd00:96::1"))
	f.expectClusterRanges("10.96.0.0/29", "fd00:96::1/128")
	f.apply(named("d", "10.97.0.1"))
	f.expectClusterRanges("10.96.0.0/15", "fd00:96::1/128")
	f.restart()
	f.apply(named("e", "200.0.0.1"))
	f.expectClusterRanges("0.0.0.0/0", "fd00:96::1/128")

	f.must(f.r.SetServiceCIDRs(prefixes("fd00:96::/112", "10.96.0.0/12", "10.96.0.0/16")))
	f.expectClusterRanges("10.96.0.0/12!", "200.0.0.1/32", "fd00:96::/112!")
	f.apply(named("f", "10.111.255.255"), named("g", "fd00:96::ffff"))
	f.expectClusterRanges("10.96.0.0/12!", "200.0.0.1/32", "fd00:96::/112!")
	f.restart()
	f.must(f.r.SetServiceCIDRs(prefixes("10.96.0.0/16")))
	f.expectAgreement()
	f.expectClusterRanges("10.96.0.0/16!", "0.0.0.0/0", "fd00:96::/112")
	f.must(f.r.SetServiceCIDRs(nil))
	f.expectAgreement()
	f.expectClusterRanges("0.0.0.0/0", "fd00:96::/112")
}

func TestTooManyServiceCIDRs(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(named("a", "10.4.0.1"), named("b", "fd00::1"))
	for range 2 {
		expectError(t, f.r.SetServiceCIDRs(prefixes("10.1.0.0/16", "10.2.0.0/16", "fd00::/112", "10.3.0.0/16", "10.4.0.0/16")),
			"service CIDRs [10.4.0.0/16]: only 3 of a family are guarded")
		f.expectClusterRanges("10.1.0.0/16!", "10.2.0.0/16!", "10.3.0.0/16!", "10.4.0.1/32", "fd00::/112!")
		f.expectAgreement()
	}
}

// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/waggle-lb/waggle/control/plan"
	wmaps "github.com/waggle-lb/waggle/maps"
)

// owned are services that together have elements in all maps.
var owned = []plan.Service{
	web(to("10.1.0.1", "10.1.0.2*"), at(wmaps.NodePort, "0.0.0.0", localOnly), at(wmaps.LoadBalancer, "192.0.2.1"), guarded("203.0.113.0/24")),
	named("six", "fd00:96::1", to("fd00:1::1*"), at(wmaps.LoadBalancer, "2001:db8::1"), guarded("2001:db8:1::/48")),
	named("empty", "10.96.0.9"),
}

func (f *fixture) id(svc plan.Service) uint32 { return f.r.services[svc.Name].id }

func (f *fixture) backendOf(svc plan.Service, addr string) uint32 {
	backends := f.r.services[svc.Name].backends
	at, found := find(backends, netip.MustParseAddr(addr), 8080)
	if !found {
		f.t.Fatalf("%s has no backend %s", svc.Name, addr)
	}
	return backends[at].id
}

// contents are all elements of the maps that Repair corrects, as they are in memory. It leaves out
// slots that no block has, and ranges that are not in force: their content has no meaning.
func (f *fixture) contents() map[string]string {
	f.t.Helper()
	out := map[string]string{}
	for _, name := range RepairedMaps {
		var key, value []byte
		for it := f.maps[name].Iterate(); it.Next(&key, &value); {
			out[fmt.Sprintf("%s %x", name, key)] = fmt.Sprintf("%x", value)
		}
	}
	maps.DeleteFunc(out, func(key, _ string) bool { return len(key) > 5 && key[:6] == "slots " })
	for _, svc := range f.r.services {
		for _, b := range svc.blocks {
			ids, err := wmaps.ReadSlots(f.maps, b.Block)
			f.must(err)
			out[fmt.Sprint("slots ", b.Block)] = fmt.Sprint(ids)
		}
	}
	ranges, err := wmaps.NewClusterAddrs(f.maps).Ranges()
	f.must(err)
	out["cluster_ranges 00000000"] = fmt.Sprint(ranges)
	return out
}

// Row 7: changes by others to any map are undone, and reported by map.
func TestRepair(t *testing.T) {
	web, six := owned[0], owned[1]
	anywhere := netip.MustParsePrefix("0.0.0.0/0")
	for _, c := range []struct {
		name    string
		corrupt func(*fixture) error
		want    Repairs
	}{
		{"nothing", func(*fixture) error { return nil }, nil},
		{"a backend's address", func(f *fixture) error {
			return f.r.backends.Write(f.backendOf(web, "10.1.0.1"), wmaps.Backend{Addr: netip.MustParseAddr("198.51.100.1"), Port: 8080, Proto: 6, Service: f.id(web), InCluster: true})
		}, Repairs{"backends": 1}},
		{"zeroed backends", func(f *fixture) error {
			for id := range f.maps["backends"].MaxEntries() {
				f.must(f.r.backends.Clear(id))
			}
			return nil
		}, Repairs{"backends": 3}},
		{"stray backends", func(f *fixture) error {
			f.must(f.r.backends.Write(0, wmaps.Backend{Addr: netip.MustParseAddr("10.1.0.1"), Service: f.id(web), InCluster: true}))
			f.must(f.r.backends.Write(300, wmaps.Backend{Addr: netip.MustParseAddr("10.1.0.1"), Service: f.id(web), InCluster: true}))
			return f.r.backends.Write(511, wmaps.Backend{Addr: netip.MustParseAddr("fd00:1::1")})
		}, Repairs{"backends": 3}},
		{"slots", func(f *fixture) error {
			first := f.r.services[web.Name].frontend(web.Frontends[0].Frontend).element.External.First
			f.must(f.maps["slots"].Put(first, f.backendOf(six, "fd00:1::1")))
			return f.maps["slots"].Put(first+1, uint32(0))
		}, Repairs{"slots": 2}},
		{"names", func(f *fixture) error {
			names := wmaps.NewNames(f.maps)
			f.must(names.Delete(f.id(web)))
			f.must(names.Put(f.id(six), web.Name, wmaps.PlainType))
			return names.Put(400, web.Name, wmaps.PlainType)
		}, Repairs{"service_names": 3}},
		{"source ranges", func(f *fixture) error {
			sources := wmaps.NewSources(f.maps)
			f.must(sources.Delete(f.id(web), web.SourceRanges[0]))
			f.must(sources.Put(f.id(web), anywhere))
			f.must(sources.Put(4711, anywhere))
			f.must(sources.Delete(f.id(six), six.SourceRanges[0]))
			f.must(sources.Put(wmaps.LocalSources, anywhere))
			return sources.Delete(wmaps.LocalSources, netip.MustParsePrefix("10.244.0.0/16"))
		}, Repairs{"source_ranges4": 5, "source_ranges6": 1}},
		{"frontends", func(f *fixture) error {
			others := wmaps.NewServices(f.maps)
			f.must(others.Delete(web.Frontends[0].Frontend))
			f.must(others.Put(six.Frontends[0].Frontend, wmaps.Service{ID: 4711}))
			return others.Put(named("x", "10.96.0.99").Frontends[0].Frontend, wmaps.Service{ID: 1})
		}, Repairs{"services4": 2, "services6": 1}},
		{"cluster IPs", func(f *fixture) error {
			table := wmaps.NewClusterAddrs(f.maps)
			f.must(table.Delete(web.Frontends[0].Frontend.Addr))
			f.must(table.Put(netip.MustParseAddr("10.96.0.77"))) // it belongs to another proxy
			return table.Put(netip.MustParseAddr("fd00:96::66"))
		}, Repairs{"cluster_addrs": 3}},
		{"cluster ranges", func(f *fixture) error {
			return wmaps.NewClusterAddrs(f.maps).SetRanges([]wmaps.ClusterRange{{Prefix: anywhere, Drop: true}})
		}, Repairs{"cluster_ranges": 1}},
		{"no cluster ranges", func(f *fixture) error {
			return wmaps.NewClusterAddrs(f.maps).SetRanges(nil)
		}, Repairs{"cluster_ranges": 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.apply(owned...)
			f.must(f.r.SetServiceCIDRs(prefixes("10.96.0.0/24")))
			f.must(f.r.SetLocalSources(prefixes("10.244.0.0/16")))
			f.must(f.r.SetOthersClusterIPs(map[netip.Addr]bool{netip.MustParseAddr("10.96.0.77"): true}))
			want, before := f.contents(), f.r.Writes()
			f.must(c.corrupt(f))
			for _, repairs := range []Repairs{c.want, nil} {
				f.expectRepairs(repairs)
				if diff := gocmp.Diff(want, f.contents()); diff != "" {
					t.Errorf("elements (-before +repaired):\n%s", diff)
				}
				f.expectAgreement()
			}
			f.apply(owned...)
			expectWrites(t, "the same plans after a repair", f.since(before), Writes{})
			f.must(f.r.SetLocalSources(nil))
			f.expectNoLeak()
		})
	}
}

func (f *fixture) expectRepairs(want Repairs) {
	f.t.Helper()
	got, err := f.r.Repair(func() {})
	f.must(err)
	if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("repairs (-want +got):\n%s", diff)
	}
}

// All maps are emptied at once. Even the order in which they are repaired leaves no frontend that
// leads nowhere.
func TestRepairEmptied(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(owned...)
	want := f.contents()
	for _, name := range RepairedMaps {
		f.empty(name)
	}
	f.before = func() {
		frontends, err := wmaps.NewServices(f.maps).All()
		f.must(err)
		backends, err := wmaps.ReadBackends(f.maps)
		f.must(err)
		for frontend, svc := range frontends {
			ids, err := wmaps.ReadSlots(f.maps, svc.External)
			f.must(err)
			for _, id := range ids {
				if backends[id].Service != svc.ID {
					t.Errorf("on the way %s led to %+v", frontend, backends[id])
				}
			}
			if svc.SourceRanges && len(f.rangesOf(svc.ID)) == 0 {
				t.Errorf("on the way %s was guarded, without ranges", frontend)
			}
		}
	}
	if _, err := f.r.Repair(func() {}); err != nil {
		t.Error(err)
	}
	f.before = nil
	if diff := gocmp.Diff(want, f.contents()); diff != "" {
		t.Errorf("elements (-before +repaired):\n%s", diff)
	}
	f.expectNoLeak()
}

func (f *fixture) rangesOf(id uint32) []netip.Prefix {
	f.t.Helper()
	all, err := wmaps.NewSources(f.maps).All()
	f.must(err)
	return all[id]
}

// empty deletes or zeroes all elements of a map.
func (f *fixture) empty(name string) {
	f.t.Helper()
	var key, value []byte
	var keys [][]byte
	for it := f.maps[name].Iterate(); it.Next(&key, &value); {
		keys = append(keys, slices.Clone(key))
	}
	for _, key := range keys {
		if f.maps[name].Delete(key) != nil { // an array's element
			f.must(f.maps[name].Put(key, make([]byte, f.maps[name].ValueSize())))
		}
	}
}

// A pass that finds nothing writes nothing: it succeeds though all writes would fail.
func TestRepairOnlyReads(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(owned...)
	for _, name := range RepairedMaps {
		if name != "backends" && name != "slots" { // those are memory, see TestRepair
			t.Cleanup(f.maps.ReadOnly(t, name))
		}
	}
	f.expectRepairs(nil)
	f.r.services[owned[2].Name].frontends[0].element = wmaps.Service{ID: 1} // otherwise the test would prove nothing
	_, err := f.r.Repair(func() {})
	expectError(t, err, "frontend 10.96.0.9:80/TCP", "not permitted")
}

// An element that rests after its removal is no stray, and neither is one that is kept without new
// flows.
func TestRepairLeavesTheRemoved(t *testing.T) {
	f := newFixture(t, nil)
	kept := web()
	kept.Kept = []plan.Endpoint{{Addr: netip.MustParseAddr("10.1.0.1"), Port: 8080}}
	f.apply(web(to("10.1.0.1", "10.1.0.2")))
	f.apply(kept)
	want := f.contents()
	f.expectRepairs(nil)
	if diff := gocmp.Diff(want, f.contents()); diff != "" {
		t.Errorf("elements (-before +repaired):\n%s", diff)
	}
	f.rest()
	f.expectRepairs(nil)
	f.expectNoLeak()
}

// Strays that have taken the last room are removed, and then ours find room.
func TestRepairFullMap(t *testing.T) {
	f := newFixture(t, map[string]uint32{"services4": 1, "service_names": 1, "source_ranges4": 1, "cluster_addrs": 1})
	svc := named("lb", "192.0.2.1", to("10.1.0.1"), guarded("203.0.113.0/24"))
	svc.Frontends[0].Guarded = true
	f.apply(svc)
	want := f.contents()
	for _, name := range []string{"services4", "service_names", "source_ranges4", "cluster_addrs"} {
		f.empty(name)
	}
	f.must(wmaps.NewServices(f.maps).Put(named("x", "10.96.0.99").Frontends[0].Frontend, wmaps.Service{ID: 1}))
	f.must(wmaps.NewNames(f.maps).Put(77, svc.Name, wmaps.PlainType))
	f.must(wmaps.NewSources(f.maps).Put(4711, netip.MustParsePrefix("0.0.0.0/0")))
	f.must(wmaps.NewClusterAddrs(f.maps).Put(netip.MustParseAddr("10.96.0.99")))
	got, err := f.r.Repair(func() {})
	f.must(err)
	for table, n := range got {
		if n != 2 {
			t.Errorf("%s: %d repairs, want 2: a stray, and ours", table, n)
		}
	}
	if diff := gocmp.Diff(want, f.contents()); diff != "" {
		t.Errorf("elements (-before +repaired):\n%s", diff)
	}
	f.expectNoLeak()
}

// Before the first Apply, too, what an earlier run left counts as right.
func TestRepairAfterRestart(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(owned...)
	f.must(f.r.SetServiceCIDRs(prefixes("10.96.0.0/24", "fd00:96::/112")))
	f.restart()
	f.expectRepairs(nil)
}

// Services come, change and go while the maps are compared. These changes are not taken for changes
// by others, and changes by others are still found.
func TestRepairAmidChanges(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := &churn{newFixture(t, nil), rand.New(rand.NewPCG(seed, 7)), map[wmaps.Name]plan.Service{}}
			stays := named("stays", "10.95.0.1")
			c.apply(stays)
			c.want[stays.Name] = stays
			for round := range 20 {
				var want Repairs
				if round%4 == 3 {
					f := stays.Frontends[0].Frontend
					c.must(wmaps.NewServices(c.maps).Delete(f))
					c.must(c.r.names.Put(500, stays.Name, wmaps.PlainType))
					want = Repairs{"services4": 1, "service_names": 1}
				}
				got, err := c.r.Repair(c.change)
				c.must(err)
				if diff := gocmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
					t.Errorf("repairs (-want +got):\n%s", diff)
				}
				if got, want := meanings(t, c.maps), c.wanted(); !maps.Equal(got, want) {
					t.Fatalf("after a repair (-want +got):\n%s", gocmp.Diff(want, got))
				}
				c.expectAgreement()
				c.rest()
			}
			c.expectNoLeak()
		})
	}
}

// change sometimes changes or deletes a service.
func (c *churn) change() {
	if c.random.IntN(3) > 0 {
		return
	}
	svc := c.randomService()
	if c.random.IntN(3) == 0 {
		c.must(c.r.Delete(svc.Name))
		delete(c.want, svc.Name)
		return
	}
	c.must(c.r.Apply(svc))
	c.want[svc.Name] = svc
}

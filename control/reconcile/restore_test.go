// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/maps"
)

// The next plans heal inconsistent elements of the maps. Until then these do what they did.
func TestHealSlots(t *testing.T) {
	first, second := named("first", "10.96.0.1", to("10.1.0.1", "10.1.0.2")), named("second", "10.96.0.2", to("10.1.0.3", "10.1.0.4"))
	for name, damage := range map[string]func(whole maps.Block) maps.Block{
		"another service's": func(b maps.Block) maps.Block { return b },
		"overlapping":       func(b maps.Block) maps.Block { return maps.Block{First: b.First, Count: 4} },
		"misplaced":         func(maps.Block) maps.Block { return maps.Block{First: 301, Count: 2} },
		"outside":           func(maps.Block) maps.Block { return maps.Block{First: 1 << 20, Count: 2} },
		"absurd":            func(maps.Block) maps.Block { return maps.Block{First: 0, Count: 1<<32 - 1} },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, nil)
			f.apply(first, second)
			table := maps.NewServices(f.maps)
			all, err := table.All()
			f.must(err)
			element := all[second.Frontends[0].Frontend]
			element.External = damage(all[first.Frontends[0].Frontend].External)
			f.must(table.Put(second.Frontends[0].Frontend, element))

			f.restart()
			// Only a plan defines what it should be.
			repaired, err := f.r.Repair(func() {})
			f.must(err)
			if len(repaired) > 0 {
				t.Errorf("%v repaired with what can't be right", repaired)
			}
			f.apply(first, second)
			f.expectMaps(
				"10.96.0.1:80/TCP ClusterIP default/first -> 10.1.0.1:8080 10.1.0.2:8080",
				"10.96.0.2:80/TCP ClusterIP default/second -> 10.1.0.3:8080 10.1.0.4:8080")
			expectWrites(t, "once more", f.written(first, second), Writes{})
			f.expectNoLeak()
		})
	}
}

func TestHealUnnamed(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(web(to("10.1.0.1")), named("lost", "10.96.0.2", to("10.1.0.2")))
	f.must(f.r.names.Delete(f.r.services[named("lost", "10.96.0.2").Name].id))
	f.restart()
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080")
	f.expectNoLeak()
}

// Frontends may use either id: neither must be without backends meanwhile.
func TestHealTwins(t *testing.T) {
	for range 8 { // a hash map has another order each time
		f := newFixture(t, nil)
		svc := web(to("10.1.0.1"), at(maps.NodePort, "0.0.0.0"))
		f.apply(svc)
		for _, id := range []uint32{100, 101} {
			f.must(f.r.names.Put(id, svc.Name, maps.PlainType))
		}
		want := meaning(t, f.maps)
		f.before = func() {
			if all, err := maps.NewServices(f.maps).All(); err != nil || len(all) != 2 {
				t.Errorf("on the way the frontends are %v, error %v", all, err)
			}
		}
		f.restart()
		f.apply(svc)
		f.before = nil
		f.expectMaps(want...)
		if names, err := f.r.names.All(); err != nil || len(names) != 1 {
			t.Errorf("names %v, error %v", names, err)
		}
		expectWrites(t, "once more", f.written(svc), Writes{})
		f.rest()
		f.expectNoLeak()
	}
}

func TestHealNames(t *testing.T) {
	f := newFixture(t, nil)
	for _, id := range []uint32{0, 513, 1<<32 - 1} { // no allocator of 512 ids has given these
		f.must(f.r.names.Put(id, web().Name, maps.PlainType))
	}
	f.restart()
	f.expectNoLeak()
}

func TestHealBackends(t *testing.T) {
	f := newFixture(t, nil)
	svc := web(to("10.1.0.1", "10.1.0.2"))
	f.apply(svc)
	id := f.r.services[svc.Name].id
	stray := func(service uint32, addr string, serving bool) {
		_, err := f.r.backends.Add(maps.Backend{Addr: netip.MustParseAddr(addr), Port: 8080, Proto: 6, Service: service, InCluster: serving}, f.r.now())
		f.must(err)
	}
	stray(4711, "10.1.0.1", true) // of a service that is gone
	stray(id, "10.1.0.9", true)   // never published
	stray(id, "10.1.0.8", false)  // removed, but the agent ended before it was cleared
	f.restart()
	f.apply(svc)
	f.rest()
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 10.1.0.2:8080")
	if n := f.r.backends.InUse(); n != 2 {
		t.Errorf("%d backends in use, want 2", n)
	}
	f.expectNoLeak()
}

// A backend that was being removed is not brought back, but made anew.
func TestHealReturned(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(web(to("10.1.0.1", "10.1.0.2")))
	f.apply(web(to("10.1.0.1")))
	f.restart()
	f.apply(web(to("10.1.0.1", "10.1.0.2")))
	f.rest()
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.1:8080 10.1.0.2:8080")
	f.expectNoLeak()
}

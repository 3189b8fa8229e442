// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"testing"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// A frontend for which there is no room does not keep the others from following the endpoints.
func TestServicesMapIsFull(t *testing.T) {
	f := newFixture(t, map[string]uint32{"services4": 2})
	full := func(endpoint string) plan.Service {
		return web(at(maps.ExternalIP, "192.0.2.1"), at(maps.NodePort, "0.0.0.0"), to(endpoint))
	}
	f.apply(web(at(maps.NodePort, "0.0.0.0"), to("10.1.0.1")))
	for _, endpoint := range []string{"10.1.0.1", "10.1.0.2"} {
		expectError(t, f.r.Apply(full(endpoint)), "service default/web:http (TCP, IPv4)",
			"frontend 192.0.2.1:80/TCP: the map services4 is full (2 elements)")
		f.expectMaps(
			"10.96.0.1:80/TCP ClusterIP default/web -> "+endpoint+":8080",
			"0.0.0.0:80/TCP NodePort default/web -> "+endpoint+":8080")
	}
	f.apply(web(at(maps.NodePort, "0.0.0.0"), to("10.1.0.2")))
	f.expectNoLeak()
}

// The old frontend makes room for the new one, at the latest when the change is tried again.
func TestServicesMapIsFullOfOurOwn(t *testing.T) {
	f := newFixture(t, map[string]uint32{"services4": 1})
	f.apply(named("web", "10.96.0.1", to("10.1.0.1")))
	moved := named("web", "10.96.0.2", to("10.1.0.1"))
	expectError(t, f.r.Apply(moved), "frontend 10.96.0.2:80/TCP: the map services4 is full (1 elements)")
	f.apply(moved)
	f.expectMaps("10.96.0.2:80/TCP ClusterIP default/web -> 10.1.0.1:8080")
	f.expectNoLeak()
}

func TestOtherMapsAreFull(t *testing.T) {
	for _, c := range []struct {
		table string
		size  uint32
		want  string
	}{
		{"service_names", 1, "service default/second:http (TCP, IPv4): out of service ids: all 1 are in use"},
		{"backends", 3, "service default/second:http (TCP, IPv4): endpoint 10.1.0.3:8080: out of backend ids: all 2 are in use"},
		{"slots", 2, "service default/second:http (TCP, IPv4): no 2 contiguous slots are free of 2"},
	} {
		t.Run(c.table, func(t *testing.T) {
			f := newFixture(t, map[string]uint32{c.table: c.size})
			second := named("second", "10.96.0.2", to("10.1.0.2", "10.1.0.3"))
			f.apply(named("first", "10.96.0.1", to("10.1.0.1")))
			for range 2 {
				expectError(t, f.r.Apply(second), c.want)
				f.expectMaps("10.96.0.1:80/TCP ClusterIP default/first -> 10.1.0.1:8080")
			}
			f.must(f.r.Delete(named("first", "10.96.0.1").Name))
			f.rest()
			f.rest()
			f.apply(second)
			f.expectMaps("10.96.0.2:80/TCP ClusterIP default/second -> 10.1.0.2:8080 10.1.0.3:8080")
			f.rest()
			f.rest()
			f.expectNoLeak()
		})
	}
}

// A frontend that can't be written or deleted keeps its backends and slots: nothing that it refers
// to is reused.
func TestServicesMapFails(t *testing.T) {
	f := newFixture(t, nil)
	before := web(at(maps.NodePort, "0.0.0.0"), to("10.1.0.1", "10.1.0.2"))
	want := web(to("10.1.0.3", "10.1.0.4"))
	f.apply(before)
	stands := meaning(t, f.maps)
	undo := f.maps.ReadOnly(t, "services4")
	for range 2 {
		expectError(t, f.r.Apply(want), "service default/web:http", "frontend 10.96.0.1:80/TCP", "frontend 0.0.0.0:80/TCP", "not permitted")
		f.rest()
		f.expectMaps(stands...)
	}
	expectError(t, f.r.Delete(want.Name), "service default/web:http", "frontend 0.0.0.0:80/TCP")
	f.rest()
	f.expectMaps(stands...)
	undo()
	f.apply(want)
	f.rest()
	f.expectMaps("10.96.0.1:80/TCP ClusterIP default/web -> 10.1.0.3:8080 10.1.0.4:8080")
	f.expectNoLeak()
}

// The deletion of a name that fails is tried again.
func TestNamesMapFails(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(web(to("10.1.0.1")))
	undo := f.maps.ReadOnly(t, "service_names")
	f.r.names = maps.NewNames(f)
	f.must(f.r.names.IDs().Reserve(1))
	expectError(t, f.r.Delete(web().Name), "service default/web:http", "not permitted")
	undo()
	f.restart()
	f.expectNoLeak()
}

// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"testing"

	"github.com/waggle-lb/waggle/maps"
)

// The part of a service's type that its frontends don't show is stored with its name: written once,
// changed in place, known after a restart, and repaired.
func TestType(t *testing.T) {
	f := newFixture(t, nil)
	svc := web(to("10.1.0.1"), at(maps.NodePort, "0.0.0.0"))
	svc.Type = maps.PendingLoadBalancer
	expect := func(want maps.Type) {
		t.Helper()
		types, err := maps.NewNames(f.maps).Types()
		f.must(err)
		if got := types[f.id(svc)]; len(types) != 1 || got != want {
			t.Errorf("types %v, want %d", types, want)
		}
	}
	f.apply(svc)
	expect(maps.PendingLoadBalancer)
	f.restart()
	if w := f.written(svc); w != (Writes{}) {
		t.Errorf("after a restart that changed nothing: %+v", w)
	}
	svc.Type = maps.LoadBalancerType
	if w, want := f.written(svc), (Writes{Names: 1}); w != want {
		t.Errorf("wrote %+v, want %+v", w, want)
	}
	expect(maps.LoadBalancerType)
	f.must(maps.NewNames(f.maps).Put(f.id(svc), svc.Name, maps.PlainType)) // as an older agent does
	found, err := f.r.Repair(func() {})
	f.must(err)
	if found["service_names"] != 1 {
		t.Errorf("repaired %v", found)
	}
	expect(maps.LoadBalancerType)
	f.expectNoLeak()
}

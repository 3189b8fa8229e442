// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// TestStatsOfReusedID: a service that gets the id of one that is gone begins at zero, also while the elements of that one's
// backends are not cleared yet.
func TestStatsOfReusedID(t *testing.T) {
	f := newFixture(t, map[string]uint32{"service_names": 1})
	f.apply(web(to("10.1.0.1")))
	id, backend := f.r.services[web().Name].id, f.r.services[web().Name].backends[0].id
	f.must(f.maps["backend_stats"].Update(backend, &bpf.FlowCounters{Service: id, Opened: 5}, ebpf.UpdateExist))
	f.must(f.r.Delete(web().Name))
	f.ahead += 2 * time.Second // and nothing collects what is gone
	f.apply(named("other", "10.96.0.2"))
	if again := f.r.services[named("other", "10.96.0.2").Name].id; again != id {
		t.Fatalf("id %d is given away, want %d again", again, id)
	}
	all, err := maps.ReadServiceStats(f.maps)
	f.must(err)
	if s := all[id]; s.Opened != 0 {
		t.Errorf("%d flows of the service before count for the new one", s.Opened)
	}
	f.apply(named("other", "10.96.0.2", to("10.1.0.2")))
	all, err = maps.ReadServiceStats(f.maps)
	f.must(err)
	if s := all[id]; s.Opened != 0 {
		t.Errorf("with a backend: %d flows of the service before count for the new one", s.Opened)
	}
}

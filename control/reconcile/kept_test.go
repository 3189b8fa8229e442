// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// kept adds endpoints that serve and are in no set. Those that to() adds serve, too.
func kept(addrs ...string) func(*plan.Service) {
	return func(svc *plan.Service) {
		var out plan.Service
		to(addrs...)(&out)
		svc.Kept = append(svc.Kept, out.Endpoints[plan.Cluster]...)
	}
}

func udp(edits ...func(*plan.Service)) plan.Service {
	svc := web()
	svc.Name.Proto, svc.Frontends[0].Proto = unix.IPPROTO_UDP, unix.IPPROTO_UDP
	for _, edit := range edits {
		edit(&svc)
	}
	return svc
}

// expectBackends compares what happens to flows of each backend, by address.
func (f *fixture) expectBackends(want map[string]string) {
	f.t.Helper()
	backends, err := maps.ReadBackends(f.maps)
	f.must(err)
	got := map[string]string{}
	for _, b := range backends {
		switch {
		case b.Serving():
			got[b.Addr.String()] = "new"
		case b.Kept:
			got[b.Addr.String()] = "kept"
		default:
			got[b.Addr.String()] = "none"
		}
	}
	if len(got) != len(want) {
		f.t.Errorf("backends: %v, want %v", got, want)
	}
	for addr, what := range want {
		if got[addr] != what {
			f.t.Errorf("flows to %s: %q, want %q", addr, got[addr], what)
		}
	}
}

// TestRow28Kept: a backend that leaves the sets keeps its flows until its endpoint stops serving,
// over a restart too. Only then it counts as retired.
func TestRow28Kept(t *testing.T) {
	f := newFixture(t, nil)
	f.apply(udp(to("10.1.0.1", "10.1.0.2"), kept("10.1.0.1", "10.1.0.2", "10.1.0.3")))
	f.expectBackends(map[string]string{"10.1.0.1": "new", "10.1.0.2": "new"}) // the third has never had a flow
	leaving := udp(to("10.1.0.1"), kept("10.1.0.1", "10.1.0.2"))
	f.apply(leaving)
	f.expectBackends(map[string]string{"10.1.0.1": "new", "10.1.0.2": "kept"})
	expectWrites(t, "once more", f.written(leaving), Writes{})
	f.rest()
	f.restart()
	expectWrites(t, "after a restart", f.written(leaving), Writes{})
	f.expectBackends(map[string]string{"10.1.0.1": "new", "10.1.0.2": "kept"})
	f.apply(udp(to("10.1.0.1", "10.1.0.2"), kept("10.1.0.1", "10.1.0.2")))
	f.expectBackends(map[string]string{"10.1.0.1": "new", "10.1.0.2": "new"})
	if n := f.r.Retired(); n != 0 {
		t.Errorf("%d backends have retired, want none", n)
	}
	f.apply(leaving)
	f.apply(udp(to("10.1.0.1"), kept("10.1.0.1")))
	f.expectBackends(map[string]string{"10.1.0.1": "new", "10.1.0.2": "none"})
	if n := f.r.Retired(); n != 1 {
		t.Errorf("%d backends have retired, want 1", n)
	}
	f.must(f.r.Delete(udp().Name))
	if n := f.r.Retired(); n != 2 {
		t.Errorf("with the service: %d backends have retired, want 2", n)
	}
	f.expectBackends(map[string]string{"10.1.0.1": "none", "10.1.0.2": "none"})
	f.rest()
	f.expectNoLeak()
	f.apply(web(to("10.1.0.1")))
	f.apply(web())
	if n := f.r.Retired(); n != 2 {
		t.Errorf("with a TCP service: %d backends have retired, want 2", n)
	}
}

// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

// fixture is a reconciler on real maps, which a test may replace by failing ones, with a clock that
// the test moves.
type fixture struct {
	t      *testing.T
	maps   mapstest.Maps
	r      *Reconciler
	ahead  time.Duration
	before func() // called before each access to the services maps
}

func newFixture(t *testing.T, sizes map[string]uint32) *fixture {
	t.Helper()
	f := &fixture{t: t, maps: mapstest.New(t, sizes)}
	f.restart()
	return f
}

// Map implements maps.Provider.
func (f *fixture) Map(name string) *ebpf.Map {
	if f.before != nil && strings.HasPrefix(name, "services") {
		f.before()
	}
	return f.maps.Map(name)
}

// restart makes a new reconciler from what is in the maps, as the next agent does.
func (f *fixture) restart() {
	f.t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	r, err := New(f, logrus.NewEntry(log))
	f.must(err)
	r.now = func() time.Time { return time.Now().Add(f.ahead) }
	f.r = r
}

// rest lets the grace periods end.
func (f *fixture) rest() {
	f.ahead += 2 * time.Second
	f.r.Collect()
}

func (f *fixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) apply(services ...plan.Service) {
	f.t.Helper()
	for _, svc := range services {
		f.must(f.r.Apply(svc))
	}
}

// written applies services and returns what that wrote.
func (f *fixture) written(services ...plan.Service) Writes {
	f.t.Helper()
	before := f.r.Writes()
	f.apply(services...)
	return f.since(before)
}

func (f *fixture) since(before Writes) Writes {
	now := f.r.Writes()
	return Writes{
		Frontends: now.Frontends - before.Frontends, Backends: now.Backends - before.Backends,
		Blocks: now.Blocks - before.Blocks, Names: now.Names - before.Names,
		Ranges: now.Ranges - before.Ranges,
	}
}

// expectMaps compares the maps' content by its meaning for a packet, see meaning.
func (f *fixture) expectMaps(want ...string) {
	f.t.Helper()
	want = slices.Sorted(slices.Values(want))
	if diff := gocmp.Diff(want, meaning(f.t, f.maps), cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("maps (-want +got):\n%s", diff)
	}
	f.expectAgreement()
}

// expectNoLeak deletes all services and checks that every id and slot is free again.
func (f *fixture) expectNoLeak() {
	f.t.Helper()
	for _, name := range f.r.Services() {
		f.must(f.r.Delete(name))
	}
	f.rest()
	f.expectMaps()
	if n := f.r.backends.InUse(); n != 0 {
		f.t.Errorf("%d backends leaked", n)
	}
	if n := f.r.names.IDs().InUse(); n != 0 {
		f.t.Errorf("%d service ids leaked", n)
	}
	if all, err := f.r.backends.All(); err != nil || len(all) > 0 {
		f.t.Errorf("backends left in the map: %v, error %v", all, err)
	}
	if names, err := f.r.names.All(); err != nil || len(names) > 0 {
		f.t.Errorf("names left in the map: %v, error %v", names, err)
	}
	f.ahead += 2 * time.Second
	whole, err := f.r.slots.Publish(make([]uint32, f.maps["slots"].MaxEntries()), f.r.now())
	if err != nil {
		f.t.Errorf("slots leaked: %v", err)
	}
	f.r.slots.Free(whole, f.r.now())
	f.ahead += 2 * time.Second
}

// meaning reads the maps as the programs do for a packet: for each frontend its service, its kind,
// and where packets go. It checks that what the frontends refer to is there, and belongs to them.
func meaning(t *testing.T, p maps.Provider) []string {
	t.Helper()
	all := meanings(t, p)
	out := make([]string, 0, len(all))
	for f, what := range all {
		out = append(out, fmt.Sprintf("%s %s", f, what))
	}
	slices.Sort(out)
	return out
}

func meanings(t *testing.T, p maps.Provider) map[maps.Frontend]string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	frontends, err := maps.NewServices(p).All()
	must(err)
	names, err := maps.NewNames(p).All()
	must(err)
	backends, err := maps.ReadBackends(p)
	must(err)
	scope := func(f maps.Frontend, id uint32, b maps.Block, drop bool) string {
		ids, err := maps.ReadSlots(p, b)
		must(err)
		switch {
		case len(ids) == 0 && drop:
			return "dropped"
		case len(ids) == 0:
			return "refused"
		}
		var to []string
		for _, backendID := range ids {
			b := backends[backendID]
			if b.Service != id || b.Proto != f.Proto || !b.Serving() {
				t.Errorf("%s leads to the backend %d: %+v, which is not one of service %d", f, backendID, b, id)
			}
			to = append(to, describeBackend(b.Addr, b.Port, b.Local))
		}
		return strings.Join(to, " ")
	}
	out := map[maps.Frontend]string{}
	for f, svc := range frontends {
		out[f] = describeFrontend(names[svc.ID], svc.Kind,
			scope(f, svc.ID, svc.External, svc.ExternalDrop), scope(f, svc.ID, svc.Internal, svc.InternalDrop)) +
			describeExtras(svc.SourceRanges, svc.Affinity)
	}
	return out
}

// wanted is the meaning that the maps should have for a plan.
func wanted(svc plan.Service) map[maps.Frontend]string {
	scope := func(s plan.Scope) string {
		var to []string
		for _, e := range svc.Endpoints[s.Set] {
			to = append(to, describeBackend(e.Addr, e.Port, e.Local))
		}
		switch {
		case len(to) == 0 && s.Drop:
			return "dropped"
		case len(to) == 0:
			return "refused"
		}
		return strings.Join(to, " ")
	}
	out := map[maps.Frontend]string{}
	for _, f := range svc.Frontends {
		out[f.Frontend] = describeFrontend(svc.Name, f.Kind, scope(f.External), scope(f.Internal)) + describeExtras(f.Guarded, svc.Affinity)
	}
	return out
}

func describeFrontend(name maps.Name, kind maps.Kind, external, internal string) string {
	s := fmt.Sprintf("%s %s/%s -> %s", kind, cmp.Or(name.Namespace, "?"), cmp.Or(name.Name, "?"), external)
	if internal != external {
		s += "; inside -> " + internal
	}
	return s
}

func describeExtras(guarded bool, affinity uint32) (s string) {
	if guarded {
		s = "; guarded"
	}
	if affinity > 0 {
		s += fmt.Sprintf("; affinity %d s", affinity)
	}
	return s
}

// expectAgreement checks that the other maps agree with the frontends. This holds between changes
// only.
func (f *fixture) expectAgreement() {
	f.t.Helper()
	frontends, err := maps.NewServices(f.maps).All()
	f.must(err)
	backends, err := maps.ReadBackends(f.maps)
	f.must(err)
	sources, err := maps.NewSources(f.maps).All()
	f.must(err)
	members := func(frontend maps.Frontend, b maps.Block, local bool) {
		ids, err := maps.ReadSlots(f.maps, b)
		f.must(err)
		for _, id := range ids {
			if member := backends[id].InCluster && !local || backends[id].InLocal && local; !member {
				f.t.Errorf("%s leads to %+v, which is not in that set (local: %t)", frontend, backends[id], local)
			}
		}
	}
	guarded, clusterIPs := map[uint32]bool{}, map[netip.Addr]bool{}
	for frontend, svc := range frontends {
		members(frontend, svc.External, svc.ExternalLocal)
		members(frontend, svc.Internal, svc.InternalLocal)
		guarded[svc.ID] = guarded[svc.ID] || svc.SourceRanges
		if svc.Kind == maps.ClusterIP {
			clusterIPs[frontend.Addr] = true
		}
		if svc.SourceRanges && len(sources[svc.ID]) == 0 {
			f.t.Errorf("%s is guarded, but there are no ranges of service %d", frontend, svc.ID)
		}
	}
	for id, ranges := range sources {
		if !guarded[id] && id != maps.LocalSources {
			f.t.Errorf("ranges of service %d, which has no guarded frontend: %v", id, ranges)
		}
	}
	f.expectClusterIPs(clusterIPs)
}

// expectClusterIPs checks that exactly these addresses are live, and that all of them are in the
// ranges.
func (f *fixture) expectClusterIPs(want map[netip.Addr]bool) {
	f.t.Helper()
	table := maps.NewClusterAddrs(f.maps)
	live, _, err := table.All()
	f.must(err)
	ranges, err := table.Ranges()
	f.must(err)
	for _, a := range live {
		if !want[a] {
			f.t.Errorf("%s is no service's cluster IP, but said to be", a)
		}
		if !slices.ContainsFunc(ranges, func(r maps.ClusterRange) bool { return r.Prefix.Contains(a) }) {
			f.t.Errorf("cluster IP %s is in none of the ranges %v", a, ranges)
		}
	}
	if len(live) < len(want) {
		f.t.Errorf("%d cluster IPs are said to be live, want %d", len(live), len(want))
	}
}

func describeBackend(addr netip.Addr, port uint16, local bool) string {
	s := netip.AddrPortFrom(addr, port).String()
	if local {
		s += "*"
	}
	return s
}

// web is a plan of a service: its cluster IP and, with each edit, more.
func web(edits ...func(*plan.Service)) plan.Service { return named("web", "10.96.0.1", edits...) }

func named(name, clusterIP string, edits ...func(*plan.Service)) plan.Service {
	svc := plan.Service{Name: maps.Name{Namespace: "default", Name: name, Port: "http", Proto: unix.IPPROTO_TCP}}
	at(maps.ClusterIP, clusterIP)(&svc)
	svc.Name.Family = maps.FamilyOf(svc.Frontends[0].Addr)
	for _, edit := range edits {
		edit(&svc)
	}
	return svc
}

// at adds a frontend, by default for the cluster set.
func at(kind maps.Kind, addr string, scopes ...plan.Scope) func(*plan.Service) {
	return func(svc *plan.Service) {
		f := plan.Frontend{Kind: kind}
		f.Frontend = maps.Frontend{Addr: netip.MustParseAddr(addr), Port: 80, Proto: svc.Name.Proto}
		if len(scopes) > 0 {
			f.External = scopes[0]
		}
		svc.Frontends = append(svc.Frontends, f)
	}
}

// guarded makes the frontends for clients in these ranges only.
func guarded(ranges ...string) func(*plan.Service) {
	return func(svc *plan.Service) {
		for _, s := range ranges {
			svc.SourceRanges = append(svc.SourceRanges, netip.MustParsePrefix(s))
		}
		for i := range svc.Frontends {
			svc.Frontends[i].Guarded = svc.Frontends[i].Kind == maps.LoadBalancer
		}
	}
}

func remembering(seconds uint32) func(*plan.Service) {
	return func(svc *plan.Service) { svc.Affinity = seconds }
}

// to adds endpoints to the cluster set. Those marked with a star are in the local set, too.
func to(addrs ...string) func(*plan.Service) {
	return func(svc *plan.Service) {
		for _, s := range addrs {
			addr, local := strings.CutSuffix(s, "*")
			e := plan.Endpoint{Addr: netip.MustParseAddr(addr), Port: 8080, Local: local}
			svc.Endpoints[plan.Cluster] = append(svc.Endpoints[plan.Cluster], e)
			if local {
				svc.Endpoints[plan.Local] = append(svc.Endpoints[plan.Local], e)
			}
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/proxy/apis"

	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// Row 6: nothing is programmed, and above all nothing deleted, before the source has synced.
func TestRow6Start(t *testing.T) {
	f := newProxyFixture(t, nil)
	a, b := serviceObject("a", "10.96.0.1"), serviceObject("b", "10.96.0.2")
	ofA, ofB := sliceObject("a", "10.1.0.1"), sliceObject("b", "10.1.0.2")
	f.begin(a, b, ofA, ofB)
	before := []string{"10.96.0.1:80 -> 10.1.0.1:8080", "10.96.0.2:80 -> 10.1.0.2:8080"}
	f.expectServed(before...)

	f.restart()
	f.add(a, serviceObject("c", "10.96.0.3"))
	if w := f.written(); w != (reconcile.Writes{}) {
		t.Errorf("before the source has synced %+v was written", w)
	}
	f.expectServed(before...)
	if f.Status().Synced {
		t.Error("the status says that the source has synced")
	}

	f.add(ofA, ofB)
	f.OnSynced()
	// b is gone: its frontend, backend and name. c is new, a is as it was.
	if w, want := f.written(), (reconcile.Writes{Frontends: 2, Backends: 1, Names: 2}); w != want {
		t.Errorf("wrote %+v, want %+v", w, want)
	}
	f.expectServed(before[0], "10.96.0.3:80 -> ")
	if s := f.Status(); !s.Synced || s.Services != 2 || s.LastSync.IsZero() {
		t.Errorf("status %+v", s)
	}
}

// Row 6: a restart disturbs nothing.
func TestRow6RestartWritesNothing(t *testing.T) {
	objects := []any{
		serviceObject("a", "10.96.0.1", externalIP("192.0.2.1")), sliceObject("a", "10.1.0.1", "10.1.0.2"),
		serviceObject("six", "fd00::1"), nodeObject(thisNode, "zone-a"),
	}
	f := newProxyFixture(t, nil)
	f.begin(objects...)
	f.restart()
	f.add(objects...)
	f.OnSynced()
	if w := f.written(); w != (reconcile.Writes{}) {
		t.Errorf("wrote %+v", w)
	}
}

func TestRow1Labels(t *testing.T) {
	for _, key := range []string{apis.LabelServiceProxyName, v1.IsHeadlessService} {
		t.Run(key, func(t *testing.T) {
			f := newProxyFixture(t, nil)
			plain, labelled := serviceObject("a", "10.96.0.1"), serviceObject("a", "10.96.0.1", label(key))
			f.begin(labelled, sliceObject("a", "10.1.0.1"))
			f.expectServed()
			f.OnService(labelled, plain)
			f.sync()
			f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080")
			f.OnService(plain, labelled)
			f.sync()
			f.expectServed()
			f.OnService(labelled, nil)
			f.sync()
			f.expectServed()
		})
		t.Run(key+" of a slice", func(t *testing.T) {
			f := newProxyFixture(t, nil)
			plain, labelled := sliceObject("a", "10.1.0.1"), sliceObject("a", "10.1.0.1")
			labelled.Labels[key] = ""
			f.begin(serviceObject("a", "10.96.0.1"), labelled)
			f.expectServed("10.96.0.1:80 -> ")
			f.OnEndpointSlice(labelled, plain)
			f.sync()
			f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080")
			f.OnEndpointSlice(plain, labelled)
			f.sync()
			f.expectServed("10.96.0.1:80 -> ")
			f.OnEndpointSlice(labelled, nil)
			f.sync()
			f.expectServed("10.96.0.1:80 -> ")
		})
	}
}

func TestChanges(t *testing.T) {
	f := newProxyFixture(t, nil)
	a, ofA := serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1")
	f.begin(append(fleet(20), a, ofA)...)
	expect := func(what string, got, want reconcile.Writes) {
		t.Helper()
		if got != want {
			t.Errorf("%s: wrote %+v, want %+v", what, got, want)
		}
	}
	more := sliceObject("a", "10.1.0.1", "10.1.0.2")
	f.OnEndpointSlice(ofA, more)
	expect("an endpoint", f.written(), reconcile.Writes{Frontends: 1, Backends: 1, Blocks: 1})
	f.OnEndpointSlice(more, ofA)
	f.OnEndpointSlice(ofA, more)
	expect("to and fro", f.written(), reconcile.Writes{})
	f.OnService(a, serviceObject("a", "10.96.0.1", func(s *v1.Service) { s.Annotations = map[string]string{"x": "y"} }))
	expect("an annotation", f.written(), reconcile.Writes{})
	moved := serviceObject("a", "10.96.0.2")
	f.OnService(a, moved)
	expect("another cluster IP", f.written(), reconcile.Writes{Frontends: 2})
	f.OnEndpointSlice(more, nil)
	expect("no endpoints", f.written(), reconcile.Writes{Frontends: 1, Backends: 2})
	f.OnService(moved, nil)
	expect("deletion", f.written(), reconcile.Writes{Frontends: 1, Names: 1})
	expect("nothing", f.written(), reconcile.Writes{})
}

// Row 25: the zone of our node decides; nothing else of nodes does.
func TestRow25NodeLabels(t *testing.T) {
	f := newProxyFixture(t, nil)
	other := nodeObject("node-b", "zone-b")
	f.begin(nodeObject(thisNode, "zone-a"), other, serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1@zone-a", "10.1.0.2@zone-b"))
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080")
	f.OnNode(other, nodeObject("node-b", "zone-a"))
	f.OnNode(nodeObject(thisNode, "zone-a"), nil)
	f.sync()
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080")
	f.OnNode(nil, nodeObject(thisNode, "zone-b"))
	f.sync()
	f.expectServed("10.96.0.1:80 -> 10.1.0.2:8080")
	f.OnNode(nil, nodeObject(thisNode, "zone-c"))
	f.sync()
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080 10.1.0.2:8080")
	if len(f.nodes) != 3 {
		t.Errorf("onNode was called %d times with our node, want 3", len(f.nodes))
	}
	// A node's status is written every few minutes: that is no reason to plan everything anew.
	f.OnNode(nil, nodeObject(thisNode, "zone-c"))
	if f.full {
		t.Error("a full pass follows a node that has not changed")
	}
}

func TestNoNode(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.begin(nodeObject("node-b", "zone-b"))
	if len(f.nodes) != 1 || f.nodes[0] != nil {
		t.Errorf("onNode was called with %v, want nil", f.nodes)
	}
	f = newProxyFixture(t, nil)
	f.begin(nodeObject(thisNode, "zone-a"))
	if len(f.nodes) != 1 || f.nodes[0] == nil {
		t.Errorf("onNode was called with %v, want our node only", f.nodes)
	}
}

// Row 7: a failure is retried, and logged once.
func TestRow7Retry(t *testing.T) {
	f := newProxyFixture(t, map[string]uint32{"services4": 1})
	a, b := serviceObject("a", "10.96.0.1"), serviceObject("b", "10.96.0.2")
	f.begin(a)
	f.add(b)
	for range 3 {
		f.sync()
		if !f.unfinished() {
			t.Fatal("no retry is scheduled")
		}
	}
	const message = "service default/b:http (TCP, IPv4): frontend 10.96.0.2:80/TCP: the map services4 is full (1 elements)"
	if got := f.logged(logrus.ErrorLevel); len(got) != 1 || got[0] != message {
		t.Errorf("logged %q", got)
	}
	if got := f.Status().Failures; len(got) != 1 || got[0] != message {
		t.Errorf("status says %q", got)
	}
	f.OnService(a, nil)
	f.sync()
	f.sync()
	f.expectServed("10.96.0.2:80 -> ")
	if f.unfinished() || len(f.Status().Failures) > 0 {
		t.Errorf("failures remain: %q", f.Status().Failures)
	}
}

// Row 7: so is a deletion that fails.
func TestRow7RetryDeletion(t *testing.T) {
	f := newProxyFixture(t, nil)
	a := serviceObject("a", "10.96.0.1")
	f.begin(a)
	undo := f.maps.ReadOnly(t, "services4")
	f.OnService(a, nil)
	for range 3 {
		f.sync()
	}
	if got := f.logged(logrus.ErrorLevel); len(got) != 1 || !strings.Contains(got[0], "service default/a:http (TCP, IPv4): frontend 10.96.0.1:80/TCP") {
		t.Errorf("logged %q", got)
	}
	if !f.unfinished() {
		t.Error("no retry is scheduled")
	}
	undo()
	f.sync()
	f.expectServed()
	if f.unfinished() {
		t.Error("a failure remains")
	}
}

// A service that could never be written and then goes is no failure any more.
func TestFailureGoesWithService(t *testing.T) {
	f := newProxyFixture(t, map[string]uint32{"service_names": 1})
	b := serviceObject("b", "10.96.0.2")
	f.begin(serviceObject("a", "10.96.0.1"))
	f.add(b)
	f.sync()
	f.OnService(b, nil)
	f.sync()
	if f.unfinished() {
		t.Errorf("failures remain: %q", f.Status().Failures)
	}
}

func TestConflict(t *testing.T) {
	f := newProxyFixture(t, nil)
	first := serviceObject("first", "10.96.0.1", externalIP("192.0.2.1"))
	f.begin(first, sliceObject("first", "10.1.0.1"))
	f.add(serviceObject("second", "10.96.0.2", externalIP("192.0.2.1")), sliceObject("second", "10.1.0.2"))
	f.sync()
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080", "192.0.2.1:80 -> 10.1.0.1:8080", "10.96.0.2:80 -> 10.1.0.2:8080")
	if got := f.logged(logrus.WarnLevel); len(got) != 1 || !strings.Contains(got[0], "192.0.2.1:80/TCP belongs to service default/first:http") {
		t.Errorf("logged %q", got)
	}
	// When one service gives it up, the other one gets it in the same pass, whichever is planned first.
	f.OnService(first, serviceObject("first", "10.96.0.1"))
	f.sync()
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080", "192.0.2.1:80 -> 10.1.0.2:8080", "10.96.0.2:80 -> 10.1.0.2:8080")
	if f.unfinished() {
		t.Errorf("failures remain: %q", f.Status().Failures)
	}
}

// A renamed service keeps its cluster IP: the new one takes it over before the old one is deleted.
func TestRename(t *testing.T) {
	f := newProxyFixture(t, nil)
	older := serviceObject("older", "10.96.0.1")
	f.begin(older, sliceObject("older", "10.1.0.1"))
	f.add(serviceObject("newer", "10.96.0.1"), sliceObject("newer", "10.1.0.1"))
	f.OnService(older, nil)
	// One frontend replaced, none deleted.
	if w, want := f.written(), (reconcile.Writes{Frontends: 1, Backends: 2, Blocks: 1, Names: 2}); w != want {
		t.Errorf("wrote %+v, want %+v", w, want)
	}
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080")
	if f.unfinished() {
		t.Errorf("failures: %q", f.Status().Failures)
	}
}

// What the source says is complete, however much is gone: also at the start, and also what a label
// or another --service-proxy-name excludes.
func TestMassDeletionIsFollowed(t *testing.T) {
	f := newProxyFixture(t, nil)
	objects := fleet(30)
	f.begin(objects...)
	for _, o := range objects[:29] {
		f.OnService(o.(*v1.Service), nil)
	}
	f.sync()
	f.expectServed("10.96.1.29:80 -> ")

	f.add(objects[:29]...)
	f.sync()
	f.restart()
	f.ServeAs("other")
	f.begin(objects...)
	f.expectServed()
}

func TestProxyRepairs(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.begin(serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1"))
	stranger := maps.NewServices(f.maps)
	all, err := stranger.All()
	f.must(err)
	for frontend := range all {
		f.must(stranger.Delete(frontend))
	}
	f.repair(context.Background())
	f.expectServed("10.96.0.1:80 -> 10.1.0.1:8080")
	if got := f.logged(logrus.WarnLevel); len(got) != 1 {
		t.Errorf("logged %q", got)
	}
}

// Changes that come together are one pass; Status may be asked for at any time.
func TestRun(t *testing.T) {
	f := newProxyFixture(t, nil)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.Run(ctx)
	}()
	f.add(serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1"))
	f.OnSynced()
	f.await("10.96.0.1:80 -> 10.1.0.1:8080")
	for range 50 {
		for _, e := range []string{"10.1.0.2", "10.1.0.3"} {
			f.OnEndpointSlice(nil, sliceObject("a", e))
		}
	}
	f.await("10.96.0.1:80 -> 10.1.0.3:8080")
	cancel()
	<-ended
	if f.syncs > 10 {
		t.Errorf("%d passes for 100 changes", f.syncs)
	}
}

func (f *proxyFixture) await(want string) {
	f.t.Helper()
	for deadline := time.Now().Add(topo.Patient(2 * time.Second)); time.Now().Before(deadline); {
		if slices.Equal(f.served(), []string{want}) && f.Status().Services == 1 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	f.t.Fatalf("the maps are %q, want %s", f.served(), want)
}

// Row 1: the label of another proxy, and of the one that this proxy serves as.
func TestServeAs(t *testing.T) {
	for name, want := range map[string][]string{
		"":      {"10.96.0.1:80 -> "},
		"x":     {"10.96.0.2:80 -> "},
		"other": {},
	} {
		f := newProxyFixture(t, nil)
		f.ServeAs(name)
		f.begin(serviceObject("plain", "10.96.0.1"), serviceObject("labelled", "10.96.0.2", label("service.kubernetes.io/service-proxy-name")),
			serviceObject("headless", "10.96.0.3", label("service.kubernetes.io/headless")))
		f.expectServed(want...)
	}
}

// What can't be served is an event on the Service, once.
func TestServiceEvents(t *testing.T) {
	f := newProxyFixture(t, nil)
	recorder := events.NewFakeRecorder(10)
	f.RecordTo(recorder)
	f.begin(serviceObject("a", "10.96.0.1"), serviceObject("b", "10.96.0.1"))
	f.sync()
	select {
	case e := <-recorder.Events:
		if !strings.HasPrefix(e, "Warning NotServed ") || !strings.Contains(e, "10.96.0.1:80") {
			t.Errorf("got event %q", e)
		}
	default:
		t.Error("no event")
	}
	select {
	case e := <-recorder.Events:
		t.Errorf("another event %q", e)
	default:
	}
}

// Row 18: a range that holds the node's address admits the load balancer's addresses, too, as soon
// as the node's address is known.
func TestRow18NodeAddress(t *testing.T) {
	f := newProxyFixture(t, nil)
	balanced := func(svc *v1.Service) {
		svc.Spec.Type = v1.ServiceTypeLoadBalancer
		svc.Spec.LoadBalancerSourceRanges = []string{"172.18.0.0/16"}
		svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	}
	f.begin(serviceObject("a", "10.96.0.1", balanced))
	expect := func(want ...string) {
		t.Helper()
		all, err := maps.NewSources(f.maps).All()
		f.must(err)
		var got []string
		for _, ranges := range all {
			for _, p := range ranges {
				got = append(got, p.String())
			}
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("source ranges %q, want %q", got, want)
		}
	}
	expect("172.18.0.0/16")
	f.SetNodeIPs([]netip.Addr{netip.MustParseAddr("172.18.0.2")})
	f.sync()
	expect("172.18.0.0/16", "192.0.2.1/32")
	f.SetNodeIPs([]netip.Addr{netip.MustParseAddr("10.0.0.2")})
	f.sync()
	expect("172.18.0.0/16")
}

// Row 22: service CIDRs are guarded once all services in them are known.
func TestRow22ServiceCIDRs(t *testing.T) {
	f := newProxyFixture(t, nil)
	guarded := func() (n int) {
		t.Helper()
		ranges, err := maps.NewClusterAddrs(f.maps).Ranges()
		f.must(err)
		for _, r := range ranges {
			if r.Drop {
				n++
			}
		}
		return n
	}
	cidrs := func(n int) (out []netip.Prefix) {
		for i := range n {
			out = append(out, netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", 96+i)))
		}
		return out
	}
	f.OnServiceCIDRs(cidrs(1))
	f.add(serviceObject("a", "10.96.0.1"))
	f.sync()
	if n := guarded(); n != 0 {
		t.Errorf("%d service CIDRs are guarded before all services are known", n)
	}
	f.begin()
	for _, n := range []int{1, 2, 0, 1} {
		f.OnServiceCIDRs(cidrs(n))
		f.sync()
		if got := guarded(); got != n {
			t.Errorf("%d service CIDRs are guarded, want %d", got, n)
		}
	}
	for range 2 {
		f.OnServiceCIDRs(cidrs(4))
		f.sync()
	}
	if failures := f.Status().Failures; len(failures) != 1 || !strings.Contains(failures[0], "10.99.0.0/16") {
		t.Errorf("status says %q", failures)
	}
	if got := f.logged(logrus.WarnLevel); len(got) != 1 {
		t.Errorf("logged %q, want one message", got)
	}
	f.OnServiceCIDRs(nil)
	f.sync()
	if failures := f.Status().Failures; len(failures) != 0 {
		t.Errorf("status still says %q", failures)
	}
}

// Row 22: the cluster IPs of services that other proxies serve are allocated, too. They stay so
// over a restart, and go when the services do, or become ours.
func TestRow22OtherProxies(t *testing.T) {
	f := newProxyFixture(t, nil)
	expect := func(ours, others []string) {
		t.Helper()
		gotOurs, gotOthers, err := maps.NewClusterAddrs(f.maps).All()
		f.must(err)
		if got, want := fmt.Sprintf("%v, others' %v", sorted(gotOurs), sorted(gotOthers)), fmt.Sprintf("%v, others' %v", ours, others); got != want {
			t.Errorf("cluster IPs %s, want %s", got, want)
		}
	}
	other := label(apis.LabelServiceProxyName)
	plain, a := serviceObject("a", "10.96.0.1"), serviceObject("a", "10.96.0.1", other)
	b, six := serviceObject("b", "10.96.0.2", other), serviceObject("six", "fd00::1", other)
	none := serviceObject("none", "None", other)
	f.OnServiceCIDRs([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
	f.begin(serviceObject("mine", "10.96.0.9"), a, b, six, none)
	expect([]string{"10.96.0.9"}, []string{"10.96.0.1", "10.96.0.2", "fd00::1"})
	f.restart()
	f.sync()
	expect([]string{"10.96.0.9"}, []string{"10.96.0.1", "10.96.0.2", "fd00::1"})
	f.begin(serviceObject("mine", "10.96.0.9"), a, b)
	expect([]string{"10.96.0.9"}, []string{"10.96.0.1", "10.96.0.2"})
	f.OnService(a, plain)
	f.OnService(b, nil)
	f.sync()
	expect([]string{"10.96.0.1", "10.96.0.9"}, nil)
	f.OnService(plain, a)
	f.sync()
	expect([]string{"10.96.0.9"}, []string{"10.96.0.1"})
}

func sorted(addrs []netip.Addr) []netip.Addr {
	slices.SortFunc(addrs, netip.Addr.Compare)
	return addrs
}

// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

var _ source.Sink = (*Proxy)(nil)

const thisNode = "node-a"

// proxyFixture is a Proxy on real maps. The test is its source.
type proxyFixture struct {
	*Proxy
	t     *testing.T
	maps  mapstest.Maps
	logs  *logtest.Hook
	nodes []*v1.Node // that onNode was called with
	syncs int
}

func newProxyFixture(t *testing.T, sizes map[string]uint32) *proxyFixture {
	t.Helper()
	f := &proxyFixture{t: t, maps: mapstest.New(t, sizes)}
	f.restart()
	return f
}

// restart makes a new Proxy over the same maps.
func (f *proxyFixture) restart() {
	f.t.Helper()
	logger, hook := logtest.NewNullLogger()
	log := logrus.NewEntry(logger)
	r, err := reconcile.New(f.maps, log)
	f.must(err)
	f.logs = hook
	f.Proxy = NewProxy(thisNode, r,
		func(n *v1.Node) { f.nodes = append(f.nodes, n) }, func() { f.syncs++ }, log)
	hook.Reset()
}

func (f *proxyFixture) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

// begin delivers all that exists at first, and syncs.
func (f *proxyFixture) begin(objects ...any) {
	f.t.Helper()
	f.add(objects...)
	f.OnSynced()
	f.sync()
}

func (f *proxyFixture) add(objects ...any) { deliver(f, objects...) }

// deliver delivers new objects.
func deliver(sink source.Sink, objects ...any) {
	for _, o := range objects {
		switch o := o.(type) {
		case *v1.Service:
			sink.OnService(nil, o)
		case *discovery.EndpointSlice:
			sink.OnEndpointSlice(nil, o)
		case *v1.Node:
			sink.OnNode(nil, o)
		}
	}
}

// written syncs and returns what that wrote.
func (f *proxyFixture) written() reconcile.Writes {
	before := f.reconciler.Writes()
	f.sync()
	now := f.reconciler.Writes()
	return reconcile.Writes{
		Frontends: now.Frontends - before.Frontends, Backends: now.Backends - before.Backends,
		Blocks: now.Blocks - before.Blocks, Names: now.Names - before.Names,
	}
}

// expectServed compares where each frontend leads to, as in "10.96.0.1:80 -> 10.1.0.1:8080".
func (f *proxyFixture) expectServed(want ...string) {
	f.t.Helper()
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), f.served(), cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("maps (-want +got):\n%s", diff)
	}
}

func (f *proxyFixture) served() []string {
	f.t.Helper()
	frontends, err := maps.NewServices(f.maps).All()
	f.must(err)
	backends, err := maps.ReadBackends(f.maps)
	f.must(err)
	var out []string
	for frontend, svc := range frontends {
		ids, err := maps.ReadSlots(f.maps, svc.External)
		f.must(err)
		var to []string
		for _, id := range ids {
			to = append(to, netip.AddrPortFrom(backends[id].Addr, backends[id].Port).String())
		}
		out = append(out, fmt.Sprintf("%s -> %s", netip.AddrPortFrom(frontend.Addr, frontend.Port), strings.Join(to, " ")))
	}
	slices.Sort(out)
	return out
}

// logged counts the messages of a level.
func (f *proxyFixture) logged(level logrus.Level) (messages []string) {
	for _, e := range f.logs.AllEntries() {
		if e.Level == level {
			messages = append(messages, e.Message)
		}
	}
	return messages
}

func serviceObject(name, clusterIP string, edits ...func(*v1.Service)) *v1.Service {
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
			Ports: []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}},
		},
	}
	for _, edit := range edits {
		edit(svc)
	}
	return svc
}

// sliceObject makes a slice of a service's; an endpoint like 10.1.0.1@zone-a hints that zone.
func sliceObject(service string, endpoints ...string) *discovery.EndpointSlice {
	s := &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: service + "-1", Labels: map[string]string{discovery.LabelServiceName: service},
		},
		AddressType: discovery.AddressTypeIPv4,
		Ports:       []discovery.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(v1.ProtocolTCP), Port: ptr.To[int32](8080)}},
	}
	for _, e := range endpoints {
		address, zone, hinted := strings.Cut(e, "@")
		endpoint := discovery.Endpoint{Addresses: []string{address}}
		if hinted {
			endpoint.Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: zone}}}
		}
		s.Endpoints = append(s.Endpoints, endpoint)
	}
	return s
}

func nodeObject(name, zone string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelTopologyZone: zone}}}
}

func label(key string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Labels = map[string]string{key: "x"} }
}

func externalIP(ip string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.ExternalIPs = []string{ip} }
}

// fleet makes n services without endpoints.
func fleet(n int) (objects []any) {
	for i := range n {
		objects = append(objects, serviceObject(fmt.Sprintf("s%02d", i), fmt.Sprintf("10.96.1.%d", i)))
	}
	return objects
}

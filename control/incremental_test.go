// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	stdmaps "maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/kubernetes/pkg/proxy/apis"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/maps"
)

// cluster is a random life of some objects, as a source delivers it.
type cluster struct {
	t      *testing.T
	random *rand.Rand

	services map[string]*v1.Service
	slices   map[string]*discovery.EndpointSlice
	node     *v1.Node
	nodeIPs  []netip.Addr
	cidrs    []netip.Prefix
}

// Whatever has happened to the objects, and however it was cut into syncs, the maps mean what they
// would if a new agent had received the final objects.
func TestIncremental(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			c := &cluster{
				t: t, random: rand.New(rand.NewPCG(seed, 5)), node: nodeObject(thisNode, "zone-a"),
				services: map[string]*v1.Service{}, slices: map[string]*discovery.EndpointSlice{},
			}
			f := newProxyFixture(t, nil)
			f.begin(c.node)
			for range 25 {
				for range 1 + c.random.IntN(8) {
					c.step(f)
				}
				switch c.random.IntN(8) {
				case 0:
					f.restart()
					c.deliver(f)
				case 1:
					f.repair(context.Background())
				}
				f.sync()
				c.compare(f)
			}
		})
	}
}

// deliver delivers all that exists, as a source does first.
func (c *cluster) deliver(f *proxyFixture) {
	f.add(c.node)
	for _, svc := range c.services {
		f.add(svc)
	}
	for _, slice := range c.slices {
		f.add(slice)
	}
	f.SetNodeIPs(c.nodeIPs)
	f.OnServiceCIDRs(c.cidrs)
	f.OnSynced()
}

// compare holds what was written change by change against what is written at once.
func (c *cluster) compare(f *proxyFixture) {
	c.t.Helper()
	fresh := newProxyFixture(c.t, nil)
	c.deliver(fresh)
	fresh.sync()
	if diff := cmp.Diff(fresh.meaning(), f.meaning()); diff != "" {
		c.t.Fatalf("maps (-written at once +change by change):\n%s", diff)
	}
	size, want := f.reconciler.Size(), fresh.reconciler.Size()
	size.Backends, want.Backends = 0, 0 // some rest after their removal, and some are kept
	if diff := cmp.Diff(want, size); diff != "" {
		c.t.Errorf("sizes (-written at once +change by change):\n%s", diff)
	}
	if failures := f.Status().Failures; len(failures) > 0 {
		c.t.Errorf("failures: %v", failures)
	}
	for i, got := range f.trackers {
		want := fresh.trackers[i]
		if !stdmaps.Equal(got.checks, got.svcMap.HealthCheckNodePorts()) {
			c.t.Errorf("health check ports %v, want %v", got.checks, got.svcMap.HealthCheckNodePorts())
		}
		if !stdmaps.Equal(got.localReady, want.localReady) {
			c.t.Errorf("local endpoints %v, want %v", got.localReady, want.localReady)
		}
		if diff := cmp.Diff(want.watch.noLocal, got.watch.noLocal, cmp.AllowUnexported(noLocal{})); diff != "" &&
			len(want.watch.noLocal)+len(got.watch.noLocal) > 0 {
			c.t.Errorf("without local endpoints (-written at once +change by change):\n%s", diff)
		}
		if want.watch.noInternal != got.watch.noInternal || want.watch.noExternal != got.watch.noExternal {
			c.t.Errorf("without local endpoints: %d and %d, want %d and %d",
				got.watch.noInternal, got.watch.noExternal, want.watch.noInternal, want.watch.noExternal)
		}
	}
}

// step makes a random change.
func (c *cluster) step(f *proxyFixture) {
	n := c.random.IntN(6)
	name := fmt.Sprint("s", n)
	svc := c.services[name]
	switch c.random.IntN(12) {
	case 0, 1, 2:
		c.service(f, name, c.randomService(name, n))
	case 3:
		c.service(f, name, nil)
	case 4: // made anew
		c.service(f, name, nil)
		c.service(f, name, c.randomService(name, n))
	case 5: // renamed: another service has its addresses and ports
		if other := fmt.Sprint("t", n); svc != nil {
			renamed := svc.DeepCopy()
			renamed.Name = other
			c.service(f, name, nil)
			c.service(f, other, renamed)
		} else if c.services[other] != nil {
			c.service(f, other, nil)
		}
	case 6:
		c.node = nodeObject(thisNode, []string{"zone-a", "zone-b"}[c.random.IntN(2)])
		f.OnNode(nil, c.node)
	case 7:
		c.nodeIPs = [][]netip.Addr{nil, {netip.MustParseAddr("192.0.2.77")}}[c.random.IntN(2)]
		f.SetNodeIPs(c.nodeIPs)
	case 8:
		c.cidrs = [][]netip.Prefix{nil, {netip.MustParsePrefix("10.96.0.0/16")}}[c.random.IntN(2)]
		f.OnServiceCIDRs(c.cidrs)
	default:
		if c.random.IntN(4) == 0 {
			name = fmt.Sprint("t", n)
		}
		number := c.random.IntN(3)
		key := fmt.Sprint(name, "-", number)
		if c.random.IntN(4) == 0 {
			c.slice(f, key, nil)
		} else {
			c.slice(f, key, c.randomSlice(name, key, number))
		}
	}
}

func (c *cluster) service(f *proxyFixture, name string, new *v1.Service) {
	old := c.services[name]
	if new != nil {
		// What a rename has left elsewhere must not claim the same addresses.
		for other, svc := range c.services {
			if other != name && svc.Spec.ClusterIP == new.Spec.ClusterIP {
				f.OnService(svc, nil)
				delete(c.services, other)
			}
		}
		c.services[name] = new
	} else {
		delete(c.services, name)
	}
	if old != nil || new != nil {
		f.OnService(old, new)
	}
}

func (c *cluster) slice(f *proxyFixture, key string, new *discovery.EndpointSlice) {
	old := c.slices[key]
	if old == nil && new == nil {
		return
	}
	if old != nil && new != nil && old.AddressType != new.AddressType { // as source.UpdateSlice does
		f.OnEndpointSlice(old, nil)
		old = nil
	}
	f.OnEndpointSlice(old, new)
	if delete(c.slices, key); new != nil {
		c.slices[key] = new
	}
}

func (c *cluster) half() bool { return c.random.IntN(2) == 0 }

func (c *cluster) randomService(name string, n int) *v1.Service {
	svc := serviceObject(name, fmt.Sprintf("10.96.0.%d", n+1))
	if c.half() {
		svc.Spec.ClusterIPs = append(svc.Spec.ClusterIPs, fmt.Sprintf("fd00:96::%d", n+1))
		svc.Spec.IPFamilies = []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol}
	}
	policy := []v1.ServiceInternalTrafficPolicy{v1.ServiceInternalTrafficPolicyCluster, v1.ServiceInternalTrafficPolicyLocal}[c.random.IntN(2)]
	svc.Spec.InternalTrafficPolicy = &policy
	svc.Spec.Ports = nil
	for i, port := range []string{"http", "dns", "admin"} {
		if c.random.IntN(3) == 0 && i > 0 {
			continue
		}
		p := v1.ServicePort{Name: port, Protocol: v1.ProtocolTCP, Port: int32(80 + 10*i + c.random.IntN(2))}
		if port == "dns" {
			p.Protocol = v1.ProtocolUDP
		}
		svc.Spec.Ports = append(svc.Spec.Ports, p)
	}
	if c.half() {
		svc.Spec.ExternalIPs = []string{fmt.Sprintf("198.51.100.%d", n+1)}
	}
	if c.half() {
		svc.Spec.Type = v1.ServiceTypeLoadBalancer
		svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: fmt.Sprintf("203.0.113.%d", n+1)}}
		svc.Spec.LoadBalancerSourceRanges = [][]string{nil, {"192.0.2.0/24", "10.0.0.0/8"}, {"10.0.0.0/8"}}[c.random.IntN(3)]
		svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
		for i := range svc.Spec.Ports {
			svc.Spec.Ports[i].NodePort = int32(30000 + 10*n + i)
		}
		if c.half() {
			svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
			svc.Spec.HealthCheckNodePort = int32(32000 + n)
		}
	}
	if c.random.IntN(4) == 0 {
		svc.Spec.SessionAffinity = v1.ServiceAffinityClientIP
		svc.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](600)}}
	}
	if c.random.IntN(6) == 0 { // another proxy's
		label(apis.LabelServiceProxyName)(svc)
	}
	return svc
}

// randomSlice makes a slice of a service's, by number. No two have an address in common: which of
// them would count is undefined.
func (c *cluster) randomSlice(service, key string, number int) *discovery.EndpointSlice {
	s := sliceObject(service)
	s.Name = key
	prefix := "10.1.0."
	if c.random.IntN(3) == 0 {
		s.AddressType, prefix = discovery.AddressTypeIPv6, "fd00:1::"
	}
	s.Ports = append(s.Ports, discovery.EndpointPort{Name: ptr.To("dns"), Protocol: ptr.To(v1.ProtocolUDP), Port: ptr.To[int32](53)})
	if c.half() {
		s.Ports = append(s.Ports, discovery.EndpointPort{Name: ptr.To("admin"), Protocol: ptr.To(v1.ProtocolTCP), Port: ptr.To[int32](9090)})
	}
	for i := range c.random.IntN(5) {
		e := discovery.Endpoint{Addresses: []string{fmt.Sprint(prefix, 10*number+i)}}
		if c.random.IntN(3) == 0 {
			e.NodeName = ptr.To(thisNode)
		}
		if c.random.IntN(3) > 0 {
			e.Hints = &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: []string{"zone-a", "zone-b"}[c.random.IntN(2)]}}}
		}
		if c.random.IntN(4) == 0 {
			e.Conditions = discovery.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(c.half()), Terminating: ptr.To(c.half())}
		}
		s.Endpoints = append(s.Endpoints, e)
	}
	return s
}

// meaning is all that packets can find out from the maps, by what they look up. Numbers, which
// depend on what has been before, are left out.
func (f *proxyFixture) meaning() map[string]string {
	f.t.Helper()
	frontends, err := maps.NewServices(f.maps).All()
	f.must(err)
	names, err := maps.NewNames(f.maps).All()
	f.must(err)
	backends, err := maps.ReadBackends(f.maps)
	f.must(err)
	ranges, err := maps.NewSources(f.maps).All()
	f.must(err)
	ours, others, err := maps.NewClusterAddrs(f.maps).All()
	f.must(err)
	block := func(b maps.Block, drop, local bool) string {
		ids, err := maps.ReadSlots(f.maps, b)
		f.must(err)
		to := []string{fmt.Sprintf("(drop %t, local %t)", drop, local)}
		for _, id := range ids {
			b := backends[id]
			to = append(to, fmt.Sprintf("%s local %t, in %t %t of %s", netip.AddrPortFrom(b.Addr, b.Port), b.Local, b.InCluster, b.InLocal, names[b.Service]))
		}
		return strings.Join(to, ", ")
	}
	out := map[string]string{}
	for frontend, s := range frontends {
		slices.SortFunc(ranges[s.ID], netip.Prefix.Compare)
		out[frontend.String()] = fmt.Sprintf("%s of %s, ranges %t %v, affinity %d\nexternal %s\ninternal %s", s.Kind, names[s.ID], s.SourceRanges,
			ranges[s.ID], s.Affinity, block(s.External, s.ExternalDrop, s.ExternalLocal), block(s.Internal, s.InternalDrop, s.InternalLocal))
	}
	for _, b := range backends {
		if b.Serving() {
			out[fmt.Sprintf("backend %s of %s", netip.AddrPortFrom(b.Addr, b.Port), names[b.Service])] = fmt.Sprint(b.Local, b.InCluster, b.InLocal)
		}
	}
	for _, name := range names {
		out["name "+name.String()] = ""
	}
	for _, a := range ours {
		out["cluster IP "+a.String()] = "ours"
	}
	for _, a := range others {
		out["cluster IP "+a.String()] = "another's"
	}
	return out
}

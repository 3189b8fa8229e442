// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/kubernetes/pkg/proxy/apis"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/source"
)

// The Service by which clients reach the server has the name that it has in most clusters: configurations of proxies
// name it as their resolver.
const (
	serviceNamespace = metav1.NamespaceSystem
	serviceName      = "kube-dns"
	servicePort      = 53
)

// Sink returns a sink that follows what a source delivers, and passes it on with our Service beside it. A Service of the
// source that has our name, or one of our addresses, takes precedence for as long as it exists.
func (s *Server) Sink(next source.Sink) source.Sink {
	return &sink{Sink: next, server: s, holders: map[netip.Addr]map[key]bool{}}
}

type sink struct {
	source.Sink
	server  *Server
	holders map[netip.Addr]map[key]bool // Services of the source, by those of our addresses that they have
	named   bool                        // one of them has our name
	synced  bool
	sent    []netip.Addr // that our Service has, as the next sink knows it; none: there is no such Service
	service *v1.Service
	slices  []*discovery.EndpointSlice
}

// OnService is part of source.Sink.
func (s *sink) OnService(old, new *v1.Service) {
	s.follow(old, false)
	s.follow(new, true)
	want := s.want()
	kept := slices.DeleteFunc(slices.Clone(want), func(a netip.Addr) bool { return !slices.Contains(s.sent, a) })
	s.offer(kept) // what ours gives up is free before another one gets it
	s.server.zone.OnService(old, new)
	s.Sink.OnService(old, new)
	s.offer(want) // and what another one gives up is free before ours gets it
}

// OnEndpointSlice is part of source.Sink.
func (s *sink) OnEndpointSlice(old, new *discovery.EndpointSlice) {
	s.server.zone.OnEndpointSlice(old, new)
	s.Sink.OnEndpointSlice(old, new)
}

// OnServiceCIDRs is part of source.Sink.
func (s *sink) OnServiceCIDRs(cidrs []netip.Prefix) {
	s.server.zone.OnServiceCIDRs(cidrs)
	s.Sink.OnServiceCIDRs(cidrs)
}

// OnSynced is part of source.Sink.
func (s *sink) OnSynced() {
	s.synced = true
	s.offer(s.want())
	s.Sink.OnSynced()
}

// follow notes what of ours a Service of the source has.
func (s *sink) follow(service *v1.Service, there bool) {
	if service == nil {
		return
	}
	k := key{service.Namespace, service.Name}
	if k == (key{serviceNamespace, serviceName}) {
		s.named = there
	}
	given := slices.Concat(service.Spec.ClusterIPs, service.Spec.ExternalIPs)
	for _, i := range service.Status.LoadBalancer.Ingress {
		given = append(given, i.IP)
	}
	for _, text := range given {
		a, err := netip.ParseAddr(text)
		if a = a.Unmap(); err != nil || !slices.Contains(s.server.opts.Addresses, a) {
			continue
		}
		if s.holders[a] == nil {
			s.holders[a] = map[key]bool{}
		}
		if s.holders[a][k] = true; !there {
			delete(s.holders[a], k)
		}
	}
}

// want lists the addresses that our Service should have. What keeps it from having all of them is reported.
func (s *sink) want() (addrs []netip.Addr) {
	if !s.synced {
		return nil // a Service may yet come that has the address
	}
	var problems []string
	for _, a := range s.server.opts.Addresses {
		holders := slices.Collect(maps.Keys(s.holders[a]))
		switch {
		case s.named:
			problems = append(problems, fmt.Sprintf("Service %s/%s is among the manifests and takes precedence: waggle does not answer at %s", serviceNamespace, serviceName, a))
		case len(holders) > 0:
			problems = append(problems, fmt.Sprintf("Service %s/%s of the manifests has %s and takes precedence: waggle does not answer there", holders[0].namespace, holders[0].name, a))
		default:
			addrs = append(addrs, a)
		}
	}
	s.server.report(aboutService, problems)
	s.server.mu.Lock()
	s.server.served = addrs
	s.server.mu.Unlock()
	return addrs
}

// offer gives our Service these addresses, in the next sink and in the zone; without any there is none. Endpoints come
// before the Service, and go after it: it is never without.
func (s *sink) offer(addrs []netip.Addr) {
	if slices.Equal(addrs, s.sent) {
		return
	}
	if len(s.sent) == 0 {
		s.slices = s.server.opts.slices()
		for _, sl := range s.slices {
			s.Sink.OnEndpointSlice(nil, sl)
		}
	}
	old := s.service
	s.sent, s.service = addrs, nil
	if len(addrs) > 0 {
		s.service = s.server.opts.service(addrs)
	}
	s.server.zone.OnService(old, s.service)
	s.Sink.OnService(old, s.service)
	if len(addrs) == 0 {
		for _, sl := range s.slices {
			s.Sink.OnEndpointSlice(sl, nil)
		}
	}
}

func (o Options) labels(more map[string]string) map[string]string {
	all := map[string]string{}
	if o.ServeAs != "" {
		all[apis.LabelServiceProxyName] = o.ServeAs
	}
	maps.Copy(all, more)
	return all
}

// service is our Service with some addresses. Its endpoint is on the client's node.
func (o Options) service(addrs []netip.Addr) *v1.Service {
	s := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: serviceNamespace, Name: serviceName, Labels: o.labels(nil)},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeClusterIP, ClusterIP: addrs[0].String(), SessionAffinity: v1.ServiceAffinityNone,
			InternalTrafficPolicy: ptr.To(v1.ServiceInternalTrafficPolicyLocal),
			Ports: []v1.ServicePort{
				{Name: "dns", Protocol: v1.ProtocolUDP, Port: servicePort, TargetPort: intstr.FromInt32(ListenPort)},
				{Name: "dns-tcp", Protocol: v1.ProtocolTCP, Port: servicePort, TargetPort: intstr.FromInt32(ListenPort)},
			},
		},
	}
	for _, a := range addrs {
		s.Spec.ClusterIPs = append(s.Spec.ClusterIPs, a.String())
		s.Spec.IPFamilies = append(s.Spec.IPFamilies, familyOf(a))
	}
	return s
}

// slices are the EndpointSlices of our Service, one for each family.
func (o Options) slices() (all []*discovery.EndpointSlice) {
	for _, a := range o.listenAddrs() {
		family := familyOf(a)
		s := &discovery.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: serviceNamespace, Name: serviceName + "-" + strings.ToLower(string(family)),
				Labels: o.labels(map[string]string{discovery.LabelServiceName: serviceName}),
			},
			AddressType: discovery.AddressType(family),
			Endpoints: []discovery.Endpoint{{
				Addresses: []string{a.String()}, NodeName: ptr.To(o.NodeName),
				Conditions: discovery.EndpointConditions{Ready: ptr.To(true), Serving: ptr.To(true), Terminating: ptr.To(false)},
			}},
		}
		for name, protocol := range map[string]v1.Protocol{"dns": v1.ProtocolUDP, "dns-tcp": v1.ProtocolTCP} {
			s.Ports = append(s.Ports, discovery.EndpointPort{Name: ptr.To(name), Protocol: ptr.To(protocol), Port: ptr.To[int32](ListenPort)})
		}
		all = append(all, s)
	}
	return all
}

func familyOf(a netip.Addr) v1.IPFamily {
	if a.Is4() {
		return v1.IPv4Protocol
	}
	return v1.IPv6Protocol
}

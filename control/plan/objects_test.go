// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// The node that is planned for, and another node in another zone.
const (
	here, hereZone   = "node-a", "zone-a"
	there, thereZone = "node-b", "zone-b"
)

// newService makes a dual-stack ClusterIP service with TCP port 80. edits change it.
func newService(edits ...func(*v1.Service)) *v1.Service {
	policy := v1.ServiceInternalTrafficPolicyCluster
	svc := &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web"},
		Spec: v1.ServiceSpec{
			Type:                  v1.ServiceTypeClusterIP,
			ClusterIP:             "10.96.0.1",
			ClusterIPs:            []string{"10.96.0.1", "fd00:96::1"},
			IPFamilies:            []v1.IPFamily{v1.IPv4Protocol, v1.IPv6Protocol},
			Ports:                 []v1.ServicePort{{Name: "http", Protocol: v1.ProtocolTCP, Port: 80}},
			SessionAffinity:       v1.ServiceAffinityNone,
			InternalTrafficPolicy: &policy,
		},
	}
	for _, edit := range edits {
		edit(svc)
	}
	return svc
}

func nodePort(svc *v1.Service) {
	svc.Spec.Type = v1.ServiceTypeNodePort
	svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyCluster
	svc.Spec.Ports[0].NodePort = 30080
}

func loadBalancer(ingress ...v1.LoadBalancerIngress) func(*v1.Service) {
	return func(svc *v1.Service) {
		nodePort(svc)
		svc.Spec.Type = v1.ServiceTypeLoadBalancer
		svc.Status.LoadBalancer.Ingress = ingress
	}
}

func externalIPs(ips ...string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.ExternalIPs = ips }
}

func externalLocal(svc *v1.Service) {
	svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(svc *v1.Service) {
	svc.Spec.InternalTrafficPolicy = ptr.To(v1.ServiceInternalTrafficPolicyLocal)
}

// endpoint makes a ready endpoint on another node.
func endpoint(address string, edits ...func(*discovery.Endpoint)) discovery.Endpoint {
	e := discovery.Endpoint{Addresses: []string{address}, NodeName: ptr.To(there)}
	for _, edit := range edits {
		edit(&e)
	}
	return e
}

func local(e *discovery.Endpoint) { e.NodeName = ptr.To(here) }

func unready(e *discovery.Endpoint) {
	e.Conditions = discovery.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(false)}
}

// terminating endpoints still answer; dying ones don't.
func terminating(e *discovery.Endpoint) {
	e.Conditions = discovery.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(true), Terminating: ptr.To(true)}
}

func dying(e *discovery.Endpoint) {
	e.Conditions = discovery.EndpointConditions{Ready: ptr.To(false), Serving: ptr.To(false), Terminating: ptr.To(true)}
}

func forZone(zones ...string) func(*discovery.Endpoint) {
	return func(e *discovery.Endpoint) {
		hints(e).ForZones = nil
		for _, z := range zones {
			e.Hints.ForZones = append(e.Hints.ForZones, discovery.ForZone{Name: z})
		}
	}
}

func forNode(nodes ...string) func(*discovery.Endpoint) {
	return func(e *discovery.Endpoint) {
		for _, n := range nodes {
			hints(e).ForNodes = append(hints(e).ForNodes, discovery.ForNode{Name: n})
		}
	}
}

func hints(e *discovery.Endpoint) *discovery.EndpointHints {
	if e.Hints == nil {
		e.Hints = &discovery.EndpointHints{}
	}
	return e.Hints
}

var sliceCount int // for the slices' names

// newSlice makes a slice of the service's, for port 8080 named http.
func newSlice(family discovery.AddressType, endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
	sliceCount++
	return &discovery.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: fmt.Sprintf("web-%d", sliceCount),
			Labels: map[string]string{discovery.LabelServiceName: "web"},
		},
		AddressType: family,
		Ports:       []discovery.EndpointPort{slicePort("http", v1.ProtocolTCP, 8080)},
		Endpoints:   endpoints,
	}
}

func ipv4(endpoints ...discovery.Endpoint) *discovery.EndpointSlice {
	return newSlice(discovery.AddressTypeIPv4, endpoints...)
}

func slicePort(name string, protocol v1.Protocol, port int32) discovery.EndpointPort {
	return discovery.EndpointPort{Name: &name, Protocol: &protocol, Port: &port}
}

// planAll passes the objects through kube-proxy's trackers and plans the result.
func planAll(family maps.Family, svc *v1.Service, slices []*discovery.EndpointSlice) []plan.Service {
	ipFamily := v1.IPv4Protocol
	if family == maps.IPv6 {
		ipFamily = v1.IPv6Protocol
	}
	services := proxy.NewServiceChangeTracker(ipFamily, plan.NewPort, nil)
	endpoints := proxy.NewEndpointsChangeTracker(ipFamily, here, nil, nil)
	services.Update(nil, svc)
	for _, s := range slices {
		endpoints.EndpointSliceUpdate(s, false)
	}
	ports, byPort := proxy.ServicePortMap{}, proxy.EndpointsMap{}
	ports.Update(services)
	byPort.Update(endpoints)
	node := plan.Node{Name: here, Labels: map[string]string{v1.LabelTopologyZone: hereZone}, IPs: []netip.Addr{netip.MustParseAddr("172.18.0.2")}}
	var out []plan.Service
	for name, port := range ports {
		out = append(out, plan.Plan(name, family, port, byPort[name], node))
	}
	return out
}

// describe formats plans as a readable expectation: for each service port its frontends, with the
// sets for clients outside and inside, and its sets of endpoints.
func describe(services []plan.Service) []string {
	out := []string{}
	for _, svc := range services {
		for _, f := range svc.Frontends {
			guarded := ""
			if f.Guarded {
				guarded = " (guarded)"
			}
			line := fmt.Sprintf("%s %s%s: %s", f.Kind, f.Frontend, guarded, scope(f.External))
			if f.Internal != f.External {
				line += ", inside " + scope(f.Internal)
			}
			out = append(out, line)
		}
		if svc.Affinity > 0 {
			out = append(out, fmt.Sprintf("%s affinity %d s", svc.Name, svc.Affinity))
		}
		if len(svc.SourceRanges) > 0 {
			out = append(out, fmt.Sprintf("%s for %s", svc.Name, strings.Trim(fmt.Sprint(svc.SourceRanges), "[]")))
		}
		for set, name := range []string{plan.Cluster: "cluster", plan.Local: "local"} {
			if len(svc.Endpoints[set]) > 0 {
				out = append(out, fmt.Sprintf("%s %s = %s", svc.Name, name, list(svc.Endpoints[set])))
			}
		}
	}
	slices.Sort(out)
	return out
}

func scope(s plan.Scope) string {
	name := "cluster"
	if s.Set == plan.Local {
		name = "local"
	}
	if s.Drop {
		name += " (drop)"
	}
	return name
}

// list marks local endpoints with a star.
func list(endpoints []plan.Endpoint) string {
	var all []string
	for _, e := range endpoints {
		s := fmt.Sprintf("%s:%d", e.Addr, e.Port)
		if e.Local {
			s += "*"
		}
		all = append(all, s)
	}
	return strings.Join(all, " ")
}

// SPDX-License-Identifier: Apache-2.0

package plan_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

type planCase struct {
	name   string // begins with the row of the contract
	family maps.Family
	svc    *v1.Service
	slices []*discovery.EndpointSlice
	want   []string
}

// TestPlan plans services with endpoints in all conditions. The cases name their rows.
//
// Contract: 2, 3, 4, 5, 12, 14, 15, 16, 17, 18, 19, 20, 24, 25, 26.
func TestPlan(t *testing.T) {
	for _, group := range [][]planCase{
		services(), conditions(), frontends(), externalPolicies(), internalPolicies(), topology(),
	} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				if c.family == 0 {
					c.family = maps.IPv4
				}
				got := describe(planAll(c.family, c.svc, c.slices))
				if diff := cmp.Diff(c.want, got); diff != "" {
					t.Errorf("plan (-want +got):\n%s", diff)
				}
			})
		}
	}
}

const clusterIP = "ClusterIP 10.96.0.1:80/TCP: cluster"

type sliceList = []*discovery.EndpointSlice

func services() []planCase {
	one := sliceList{ipv4(endpoint("10.1.0.1"))}
	both := sliceList{one[0], newSlice(discovery.AddressTypeIPv6, endpoint("fd00:1::1", local)),
		newSlice(discovery.AddressTypeFQDN, endpoint("example.com"))}
	twoProtocols := func(svc *v1.Service) {
		svc.Spec.Ports = []v1.ServicePort{
			{Name: "dns", Protocol: v1.ProtocolUDP, Port: 53}, {Name: "dns-tcp", Protocol: v1.ProtocolTCP, Port: 53},
			{Name: "sctp", Protocol: v1.ProtocolSCTP, Port: 53},
		}
	}
	dns := ipv4(endpoint("10.1.0.1"))
	dns.Ports = []discovery.EndpointPort{slicePort("dns", v1.ProtocolUDP, 5353), slicePort("dns-tcp", v1.ProtocolTCP, 5354)}
	other := ipv4(endpoint("10.1.0.2"))
	other.Ports = []discovery.EndpointPort{slicePort("http", v1.ProtocolTCP, 9090)}
	return []planCase{
		{name: "row 2: no cluster IP", svc: newService(func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil }), slices: one, want: []string{}},
		{name: "row 2: headless", svc: newService(func(s *v1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }), slices: one, want: []string{}},
		{name: "row 2: ExternalName with a leftover cluster IP", svc: newService(func(s *v1.Service) { s.Spec.Type = v1.ServiceTypeExternalName }), slices: one, want: []string{}},
		{name: "row 3: dual stack, IPv4", svc: newService(), slices: both,
			want: []string{clusterIP, "default/web:http (TCP, IPv4) cluster = 10.1.0.1:8080"}},
		{name: "row 3: dual stack, IPv6", family: maps.IPv6, svc: newService(), slices: both,
			want: []string{"ClusterIP [fd00:96::1]:80/TCP: cluster", "default/web:http (TCP, IPv6) cluster = fd00:1::1:8080*"}},
		{name: "row 3: not of this family", family: maps.IPv6, slices: both, want: []string{},
			svc: newService(func(s *v1.Service) {
				s.Spec.ClusterIPs, s.Spec.IPFamilies = s.Spec.ClusterIPs[:1], s.Spec.IPFamilies[:1]
			})},
		{name: "row 5: protocols side by side on one port", svc: newService(twoProtocols), slices: sliceList{dns}, want: []string{
			"ClusterIP 10.96.0.1:53/SCTP: cluster", "ClusterIP 10.96.0.1:53/TCP: cluster", "ClusterIP 10.96.0.1:53/UDP: cluster",
			"default/web:dns (UDP, IPv4) cluster = 10.1.0.1:5353", "default/web:dns-tcp (TCP, IPv4) cluster = 10.1.0.1:5354"}},
		{name: "row 5: a named target port that differs per endpoint", svc: newService(), slices: sliceList{ipv4(endpoint("10.1.0.1")), other},
			want: []string{clusterIP, "default/web:http (TCP, IPv4) cluster = 10.1.0.1:8080 10.1.0.2:9090"}},
	}
}

func conditions() []planCase {
	const cluster = "default/web:http (TCP, IPv4) cluster = "
	numberless := ipv4(endpoint("10.1.0.9"))
	numberless.Ports[0].Port = nil
	addresses := func(e *discovery.Endpoint) { e.Addresses = append(e.Addresses, "10.1.0.8") }
	nothingSaid := func(e *discovery.Endpoint) { e.Conditions = discovery.EndpointConditions{} }
	plan := func(name string, want []string, slices ...*discovery.EndpointSlice) planCase {
		return planCase{name: name, svc: newService(), slices: slices, want: append([]string{clusterIP}, want...)}
	}
	return []planCase{
		plan("row 4: no conditions mean ready", []string{cluster + "10.1.0.1:8080"}, ipv4(endpoint("10.1.0.1", nothingSaid))),
		plan("row 4: unready ones are left out", []string{cluster + "10.1.0.2:8080"}, ipv4(endpoint("10.1.0.1", unready), endpoint("10.1.0.2"))),
		plan("row 4: the first address only", []string{cluster + "10.1.0.1:8080"}, ipv4(endpoint("10.1.0.1", addresses))),
		plan("row 4: no port number", []string{cluster + "10.1.0.1:8080"}, ipv4(endpoint("10.1.0.1")), numberless),
		plan("row 4: in two slices", []string{cluster + "10.1.0.1:8080"}, ipv4(endpoint("10.1.0.1")), ipv4(endpoint("10.1.0.1"))),
		plan("row 4: a live one over a terminating one at the same address", []string{cluster + "10.1.0.1:8080*"},
			ipv4(endpoint("10.1.0.1", terminating)), ipv4(endpoint("10.1.0.1", local))),
		plan("row 4: local is what is on our node", []string{cluster + "10.1.0.1:8080 10.1.0.2:8080* 10.1.0.3:8080"},
			ipv4(endpoint("10.1.0.1"), endpoint("10.1.0.2", local), endpoint("10.1.0.3", func(e *discovery.Endpoint) { e.NodeName = nil }))),
		plan("row 4: sorted by number, not by letter", []string{cluster + "9.0.0.1:8080 10.1.0.2:8080 10.1.0.10:8080"},
			ipv4(endpoint("10.1.0.10"), endpoint("9.0.0.1"), endpoint("10.1.0.2"))),
		plan("row 20: no endpoints: refused", nil),
		plan("row 20: none ready: refused", nil, ipv4(endpoint("10.1.0.1", unready), endpoint("10.1.0.2", dying))),
		plan("row 24: terminating ones where none is ready", []string{cluster + "10.1.0.2:8080"},
			ipv4(endpoint("10.1.0.1", unready), endpoint("10.1.0.2", terminating), endpoint("10.1.0.3", dying))),
		plan("row 24: terminating ones are left out where one is ready", []string{cluster + "10.1.0.1:8080"},
			ipv4(endpoint("10.1.0.1"), endpoint("10.1.0.2", terminating))),
	}
}

func frontends() []planCase {
	one := sliceList{ipv4(endpoint("10.1.0.1"))}
	const cluster = "default/web:http (TCP, IPv4) cluster = 10.1.0.1:8080"
	const port = "NodePort 0.0.0.0:30080/TCP: cluster"
	vip, behind := ptr.To(v1.LoadBalancerIPModeVIP), ptr.To(v1.LoadBalancerIPModeProxy)
	balanced := loadBalancer(
		v1.LoadBalancerIngress{IP: "192.0.2.1"}, v1.LoadBalancerIngress{IP: "192.0.2.2", IPMode: vip},
		v1.LoadBalancerIngress{IP: "192.0.2.3", IPMode: behind}, v1.LoadBalancerIngress{Hostname: "lb.example.com"},
		v1.LoadBalancerIngress{IP: "2001:db8::1"})
	return []planCase{
		{name: "row 12: NodePort", svc: newService(nodePort), slices: one, want: []string{clusterIP, port, cluster}},
		{name: "row 12: NodePort, IPv6", family: maps.IPv6, svc: newService(nodePort), slices: one,
			want: []string{"ClusterIP [fd00:96::1]:80/TCP: cluster", "NodePort [::]:30080/TCP: cluster"}},
		{name: "row 16: external IPs, by family", svc: newService(externalIPs("198.51.100.1", "2001:db8::9", "198.51.100.2")), slices: one,
			want: []string{clusterIP, "ExternalIP 198.51.100.1:80/TCP: cluster", "ExternalIP 198.51.100.2:80/TCP: cluster", cluster}},
		{name: "row 17: load balancer IPs by mode", svc: newService(balanced), slices: one,
			want: []string{clusterIP, "LoadBalancer 192.0.2.1:80/TCP: cluster", "LoadBalancer 192.0.2.2:80/TCP: cluster", port, cluster}},
		{name: "row 17: load balancer IPs, IPv6", family: maps.IPv6, svc: newService(balanced), slices: one,
			want: []string{"ClusterIP [fd00:96::1]:80/TCP: cluster", "LoadBalancer [2001:db8::1]:80/TCP: cluster", "NodePort [::]:30080/TCP: cluster"}},
		{name: "row 17: no node ports allocated", slices: one,
			svc:  newService(balanced, func(s *v1.Service) { s.Spec.Ports[0].NodePort = 0 }),
			want: []string{clusterIP, "LoadBalancer 192.0.2.1:80/TCP: cluster", "LoadBalancer 192.0.2.2:80/TCP: cluster", cluster}},
		// One address is one element of the map: two kinds would replace each other in it again and
		// again. The load balancer's has source ranges, which must not be bypassed (row 18).
		{name: "row 16: an external IP that is the load balancer's too", svc: newService(balanced, externalIPs("192.0.2.1", "192.0.2.1")), slices: one,
			want: []string{clusterIP, "LoadBalancer 192.0.2.1:80/TCP: cluster", "LoadBalancer 192.0.2.2:80/TCP: cluster", port, cluster}},
		{name: "row 18: load balancer IPs are guarded, as an external IP too, and nothing else is", slices: one,
			svc: newService(balanced, externalIPs("192.0.2.1", "198.51.100.1"), sourceRanges("203.0.113.0/24", " 10.0.0.0/8 ", "10.0.0.0/8")),
			want: []string{clusterIP, "ExternalIP 198.51.100.1:80/TCP: cluster", "LoadBalancer 192.0.2.1:80/TCP (guarded): cluster",
				"LoadBalancer 192.0.2.2:80/TCP (guarded): cluster", port, cluster,
				"default/web:http (TCP, IPv4) for 10.0.0.0/8 203.0.113.0/24"}},
		{name: "row 18: a family with no range is open", family: maps.IPv6, slices: one, svc: newService(balanced, sourceRanges("203.0.113.0/24")),
			want: []string{"ClusterIP [fd00:96::1]:80/TCP: cluster", "LoadBalancer [2001:db8::1]:80/TCP: cluster", "NodePort [::]:30080/TCP: cluster"}},
		{name: "row 18: a range of one family", family: maps.IPv6, slices: one, svc: newService(balanced, sourceRanges("203.0.113.0/24", "2001:db8:1::/48")),
			want: []string{"ClusterIP [fd00:96::1]:80/TCP: cluster", "LoadBalancer [2001:db8::1]:80/TCP (guarded): cluster", "NodePort [::]:30080/TCP: cluster",
				"default/web:http (TCP, IPv6) for 2001:db8:1::/48"}},
		{name: "row 18: a range for all", slices: one, svc: newService(balanced, sourceRanges("203.0.113.0/24", "0.0.0.0/0")),
			want: []string{clusterIP, "LoadBalancer 192.0.2.1:80/TCP: cluster", "LoadBalancer 192.0.2.2:80/TCP: cluster", port, cluster}},
		{name: "row 18: a range that holds the node's address admits the load balancer IPs", slices: one,
			svc: newService(balanced, sourceRanges("172.16.0.0/12")),
			want: []string{clusterIP, "LoadBalancer 192.0.2.1:80/TCP (guarded): cluster", "LoadBalancer 192.0.2.2:80/TCP (guarded): cluster", port, cluster,
				"default/web:http (TCP, IPv4) for 172.16.0.0/12 192.0.2.1/32 192.0.2.2/32"}},
		{name: "row 18: no load balancer, no ranges", slices: one, svc: newService(nodePort, sourceRanges("203.0.113.0/24")), want: []string{clusterIP, port, cluster}},
		{name: "row 27: affinity", slices: one, svc: newService(affinity(10800)), want: []string{clusterIP, "default/web:http (TCP, IPv4) affinity 10800 s", cluster}},
		{name: "row 27: none", slices: one, svc: newService(affinity(10800), func(s *v1.Service) { s.Spec.SessionAffinity = v1.ServiceAffinityNone }), want: []string{clusterIP, cluster}},
	}
}

func sourceRanges(ranges ...string) func(*v1.Service) {
	return func(svc *v1.Service) { svc.Spec.LoadBalancerSourceRanges = ranges }
}

func affinity(seconds int32) func(*v1.Service) {
	return func(svc *v1.Service) {
		svc.Spec.SessionAffinity = v1.ServiceAffinityClientIP
		svc.Spec.SessionAffinityConfig = &v1.SessionAffinityConfig{ClientIP: &v1.ClientIPConfig{TimeoutSeconds: &seconds}}
	}
}

func externalPolicies() []planCase {
	const port = "NodePort 0.0.0.0:30080/TCP: "
	const name = "default/web:http (TCP, IPv4) "
	lb := loadBalancer(v1.LoadBalancerIngress{IP: "192.0.2.1"})
	plan := func(name string, endpoints []discovery.Endpoint, want ...string) planCase {
		return planCase{name: name, svc: newService(nodePort, externalLocal), slices: sliceList{ipv4(endpoints...)}, want: append([]string{clusterIP}, want...)}
	}
	type list = []discovery.Endpoint
	return []planCase{
		plan("row 14: local endpoints for clients outside", list{endpoint("10.1.0.1"), endpoint("10.1.0.2", local)},
			port+"local, inside cluster", name+"cluster = 10.1.0.1:8080 10.1.0.2:8080*", name+"local = 10.1.0.2:8080*"),
		plan("row 15: none local: dropped", list{endpoint("10.1.0.1")},
			port+"local (drop), inside cluster", name+"cluster = 10.1.0.1:8080"),
		plan("row 15: none local, others terminating: dropped", list{endpoint("10.1.0.1", terminating)},
			port+"local (drop), inside cluster", name+"cluster = 10.1.0.1:8080"),
		plan("row 20: none anywhere: refused, not dropped", list{endpoint("10.1.0.1", unready), endpoint("10.1.0.2", unready, local)},
			port+"local, inside cluster"),
		plan("row 24: terminating ones for the local set only", list{endpoint("10.1.0.1"), endpoint("10.1.0.2", terminating, local)},
			port+"local, inside cluster", name+"cluster = 10.1.0.1:8080", name+"local = 10.1.0.2:8080*"),
		plan("row 24: terminating ones for the cluster set, local one ready", list{endpoint("10.1.0.1", terminating), endpoint("10.1.0.2", local)},
			port+"local, inside cluster", name+"cluster = 10.1.0.2:8080*", name+"local = 10.1.0.2:8080*"),
		{name: "row 14: every external frontend alike", svc: newService(lb, externalLocal, externalIPs("198.51.100.1")),
			slices: sliceList{ipv4(endpoint("10.1.0.2", local))}, want: []string{clusterIP,
				"ExternalIP 198.51.100.1:80/TCP: local, inside cluster", "LoadBalancer 192.0.2.1:80/TCP: local, inside cluster",
				port + "local, inside cluster", name + "cluster = 10.1.0.2:8080*", name + "local = 10.1.0.2:8080*"}},
		{name: "row 13: the policy means nothing without an external frontend", svc: newService(externalLocal),
			slices: sliceList{ipv4(endpoint("10.1.0.1"))}, want: []string{clusterIP, name + "cluster = 10.1.0.1:8080"}},
	}
}

func internalPolicies() []planCase {
	const name = "default/web:http (TCP, IPv4) "
	const vip = "ClusterIP 10.96.0.1:80/TCP: "
	plan := func(name string, endpoints []discovery.Endpoint, want ...string) planCase {
		return planCase{name: name, svc: newService(internalLocal), slices: sliceList{ipv4(endpoints...)}, want: want}
	}
	type list = []discovery.Endpoint
	return []planCase{
		plan("row 19: local only, wherever the client is", list{endpoint("10.1.0.1"), endpoint("10.1.0.2", local)},
			vip+"local", name+"local = 10.1.0.2:8080*"),
		plan("row 19: none local but some elsewhere: dropped", list{endpoint("10.1.0.1")}, vip+"local (drop)"),
		plan("row 19: none local but some terminating elsewhere: dropped", list{endpoint("10.1.0.1", terminating)}, vip+"local (drop)"),
		plan("row 20: none anywhere: refused", list{endpoint("10.1.0.1", unready)}, vip+"local"),
		plan("row 24: local terminating ones", list{endpoint("10.1.0.1"), endpoint("10.1.0.2", local, terminating)},
			vip+"local", name+"local = 10.1.0.2:8080*"),
		{name: "row 19: external frontends have their own policy", svc: newService(nodePort, internalLocal),
			slices: sliceList{ipv4(endpoint("10.1.0.1"))},
			want:   []string{vip + "local (drop)", "NodePort 0.0.0.0:30080/TCP: cluster", name + "cluster = 10.1.0.1:8080"}},
		{name: "rows 14 and 19: both policies local", svc: newService(nodePort, internalLocal, externalLocal),
			slices: sliceList{ipv4(endpoint("10.1.0.1"), endpoint("10.1.0.2", local))},
			want: []string{vip + "local", "NodePort 0.0.0.0:30080/TCP: local, inside cluster",
				name + "cluster = 10.1.0.1:8080 10.1.0.2:8080*", name + "local = 10.1.0.2:8080*"}},
	}
}

func topology() []planCase {
	const cluster = "default/web:http (TCP, IPv4) cluster = "
	plan := func(name, want string, endpoints ...discovery.Endpoint) planCase {
		return planCase{name: name, svc: newService(), slices: sliceList{ipv4(endpoints...)}, want: []string{clusterIP, cluster + want}}
	}
	return []planCase{
		plan("row 25: same zone", "10.1.0.1:8080",
			endpoint("10.1.0.1", forZone(hereZone)), endpoint("10.1.0.2", forZone(thereZone))),
		plan("row 25: same node before same zone", "10.1.0.1:8080*",
			endpoint("10.1.0.1", local, forNode(here), forZone(hereZone)), endpoint("10.1.0.2", forNode(there), forZone(hereZone))),
		plan("row 25: hints for other nodes only: same zone", "10.1.0.2:8080",
			endpoint("10.1.0.1", forNode(there), forZone(thereZone)), endpoint("10.1.0.2", forNode("node-c"), forZone(hereZone))),
		plan("row 25: one hints no node: same zone", "10.1.0.1:8080* 10.1.0.2:8080",
			endpoint("10.1.0.1", local, forNode(here), forZone(hereZone)), endpoint("10.1.0.2", forZone(hereZone)), endpoint("10.1.0.3", forZone(thereZone))),
		plan("row 25: one hints no zone: all", "10.1.0.1:8080 10.1.0.2:8080",
			endpoint("10.1.0.1", forZone(hereZone)), endpoint("10.1.0.2")),
		plan("row 25: no zone is ours: all", "10.1.0.1:8080 10.1.0.2:8080",
			endpoint("10.1.0.1", forZone(thereZone)), endpoint("10.1.0.2", forZone("zone-c"))),
		plan("row 25: unready ones need no hint", "10.1.0.1:8080",
			endpoint("10.1.0.1", forZone(hereZone)), endpoint("10.1.0.2", unready), endpoint("10.1.0.3", forZone(thereZone))),
		plan("row 26: one endpoint for several zones", "10.1.0.1:8080",
			endpoint("10.1.0.1", forZone(thereZone, hereZone)), endpoint("10.1.0.2", forZone("zone-c"))),
		plan("row 24: terminating ones whatever they hint", "10.1.0.2:8080",
			endpoint("10.1.0.1", unready, forZone(hereZone)), endpoint("10.1.0.2", terminating, forZone(thereZone))),
		{name: "row 25: Local ignores hints", svc: newService(nodePort, externalLocal),
			slices: sliceList{ipv4(endpoint("10.1.0.1", forZone(hereZone)), endpoint("10.1.0.2", local, forZone(thereZone)))},
			want: []string{clusterIP, "NodePort 0.0.0.0:30080/TCP: local, inside cluster",
				cluster + "10.1.0.1:8080", "default/web:http (TCP, IPv4) local = 10.1.0.2:8080*"}},
	}
}

// A plan must not depend on the order of the objects: a comparison of plans decides whether there
// is work.
func TestPlanIsStable(t *testing.T) {
	svc := newService(nodePort, externalLocal, externalIPs("198.51.100.1"))
	a, b := ipv4(endpoint("10.1.0.1"), endpoint("10.1.0.2", local)), ipv4(endpoint("10.1.0.3", local), endpoint("10.1.0.4"))
	first := planAll(maps.IPv4, svc, sliceList{a, b})
	for range 20 {
		again := planAll(maps.IPv4, svc, sliceList{b, a})
		if diff := cmp.Diff(describe(first), describe(again)); diff != "" {
			t.Fatalf("another order, another plan:\n%s", diff)
		}
		for set := range first[0].Endpoints {
			if list(first[0].Endpoints[set]) != list(again[0].Endpoints[set]) {
				t.Fatalf("another order, another set %d", set)
			}
		}
	}
}

func TestPortName(t *testing.T) {
	for _, protocol := range []v1.Protocol{v1.ProtocolTCP, v1.ProtocolUDP, v1.ProtocolSCTP} {
		want := proxy.ServicePortName{NamespacedName: types.NamespacedName{Namespace: "n", Name: "s"}, Port: "p", Protocol: protocol}
		if got := plan.PortName(plan.NameOf(want, maps.IPv6)); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package names

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
)

// recorder is a sink that records its calls.
type recorder struct{ calls []string }

func (r *recorder) OnService(old, new *v1.Service) {
	if new == nil {
		r.calls = append(r.calls, "-"+old.Name)
		return
	}
	sign := "+"
	if old != nil {
		sign = "="
	}
	r.calls = append(r.calls, sign+new.Name+" "+strings.Join(new.Spec.ClusterIPs, " "))
}

func (r *recorder) OnEndpointSlice(old, new *discovery.EndpointSlice) {
	if new == nil {
		r.calls = append(r.calls, "-"+old.Name)
		return
	}
	r.calls = append(r.calls, "+"+new.Name+" "+new.Endpoints[0].Addresses[0])
}

func (r *recorder) OnNode(_, _ *v1.Node)            {}
func (r *recorder) OnServiceCIDRs(_ []netip.Prefix) {}
func (r *recorder) OnSynced()                       { r.calls = append(r.calls, "synced") }

// take returns the calls since the last one.
func (r *recorder) take() string {
	all := strings.Join(r.calls, "; ")
	r.calls = nil
	return all
}

const (
	endpointsCome = "+kube-dns-ipv4 169.254.87.53; +kube-dns-ipv6 fd77:6167:676c:6500::53"
	endpointsGo   = "-kube-dns-ipv4; -kube-dns-ipv6"
)

// TestPrecedence: our Service is there beside those of the source, but for what these have of it, and such a Service never
// meets ours.
func TestPrecedence(t *testing.T) {
	var warnings []string
	s := New(Options{
		Addresses: addrs("10.96.0.10", "fd00::a"), Domain: "cluster.local", NodeName: "node-1", ServeAs: "second",
		Warn: func(_ string, messages []string) { warnings = messages },
	})
	next := &recorder{}
	sink := s.Sink(next)
	step := func(what, want string, problems ...string) {
		t.Helper()
		if got := next.take(); got != want {
			t.Errorf("%s:\n got %s\nwant %s", what, got, want)
		}
		if !slices.EqualFunc(warnings, problems, strings.Contains) {
			t.Errorf("%s: warnings %q, want %q", what, warnings, problems)
		}
	}
	taker := service1(t, "default/taker", `clusterIP: 10.96.0.10, clusterIPs: [10.96.0.10]`)
	sink.OnService(nil, taker)
	step("before the source has synced", "+taker 10.96.0.10")
	sink.OnSynced()
	step("synced", "+kube-dns-ipv4 169.254.87.53; +kube-dns-ipv6 fd77:6167:676c:6500::53; +kube-dns fd00::a; synced",
		"Service default/taker of the manifests has 10.96.0.10 and takes precedence: waggle does not answer there")
	if got := s.Status().Addresses; !slices.Equal(got, []string{"fd00::a"}) {
		t.Errorf("the status has %v", got)
	}
	sink.OnService(taker, nil)
	step("given back", "-taker; =kube-dns 10.96.0.10 fd00::a")

	external := service1(t, "default/external", `clusterIP: 10.96.0.20, clusterIPs: [10.96.0.20], externalIPs: ["FD00::A"]`)
	sink.OnService(nil, external)
	step("an external IP", "=kube-dns 10.96.0.10; +external 10.96.0.20", "Service default/external of the manifests has fd00::a")
	balanced := external.DeepCopy()
	balanced.Spec.ExternalIPs = nil
	balanced.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "10.96.0.10"}}
	sink.OnService(external, balanced)
	step("a load balancer's address, in place of that", "-kube-dns; "+endpointsGo+"; =external 10.96.0.20; "+endpointsCome+"; +kube-dns fd00::a", "Service default/external of the manifests has 10.96.0.10")
	sink.OnService(balanced, nil)
	step("none any more", "-external; =kube-dns 10.96.0.10 fd00::a")

	same := service1(t, "kube-system/kube-dns", `clusterIP: 10.96.0.30, clusterIPs: [10.96.0.30]`)
	sink.OnService(nil, same)
	step("the same name", "-kube-dns; "+endpointsGo+"; +kube-dns 10.96.0.30",
		"Service kube-system/kube-dns is among the manifests and takes precedence: waggle does not answer at 10.96.0.10", "at fd00::a")
	if got := ask(s.zone, "kube-dns.kube-system.svc.cluster.local. A"); !strings.HasSuffix(got, "A 10.96.0.30") {
		t.Errorf("its name: %s", got)
	}
	sink.OnService(same, nil)
	step("the name is free", "-kube-dns; "+endpointsCome+"; +kube-dns 10.96.0.10 fd00::a")
	if got := ask(s.zone, "kube-dns.kube-system.svc.cluster.local. A"); !strings.HasSuffix(got, "A 10.96.0.10") {
		t.Errorf("our name: %s", got)
	}
	for _, sl := range s.opts.slices() {
		if sl.Labels["service.kubernetes.io/service-proxy-name"] != "second" || *sl.Endpoints[0].NodeName != "node-1" {
			t.Errorf("a slice of another proxy, or node: %+v", sl)
		}
	}
}

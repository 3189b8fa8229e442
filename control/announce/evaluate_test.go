// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/control/layer2"
	"github.com/waggle-lb/waggle/control/pools"
)

const pool = "{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: lan, namespace: m}, spec: {addresses: [192.0.2.0/24]}}"

func advert(spec string) string {
	return "{apiVersion: metallb.io/v1beta1, kind: L2Advertisement, metadata: {name: lan, namespace: m}, spec: {" + spec + "}}"
}

func policy(spec string) string {
	return "{apiVersion: cilium.io/v2alpha1, kind: CiliumL2AnnouncementPolicy, metadata: {name: lan}, spec: {" + spec + "}}"
}

func documents(t *testing.T, texts ...string) *pools.Set {
	t.Helper()
	var all []pools.Document
	for _, text := range texts {
		var meta metav1.TypeMeta
		if err := yaml.Unmarshal([]byte(text), &meta); err != nil {
			t.Fatal(err)
		}
		kind, ok := pools.KindOf(meta.APIVersion, meta.Kind)
		if !ok {
			t.Fatal(text)
		}
		d := kind.New()
		if err := yaml.UnmarshalStrict([]byte(text), d); err != nil {
			t.Fatal(err)
		}
		all = append(all, d)
	}
	return pools.NewSet(all)
}

func balancer(name string, edits ...func(*v1.Service)) *v1.Service {
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: v1.ServiceSpec{Type: v1.ServiceTypeLoadBalancer}}
	svc.Status.LoadBalancer.Ingress = []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}
	for _, edit := range edits {
		edit(svc)
	}
	return svc
}

func local(svc *v1.Service)    { svc.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal }
func external(svc *v1.Service) { svc.Spec.ExternalIPs = []string{"192.0.2.9"} }
func foreign(svc *v1.Service)  { class := "cloud.example/lb"; svc.Spec.LoadBalancerClass = &class }

// TestEvaluate: what a node offers, by what it is and by what documents say. The node has eth0 with the subnet, eth1 with
// another one, and eth2 without a link.
func TestEvaluate(t *testing.T) {
	devices := []layer2.Device{
		{Index: 1, Name: "eth0", Subnets: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Carrier: true},
		{Index: 2, Name: "eth1", Subnets: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}, Carrier: true},
		{Index: 3, Name: "eth2"},
	}
	node := func(labels map[string]string, cordoned bool) *v1.Node {
		return &v1.Node{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: v1.NodeSpec{Unschedulable: cordoned}}
	}
	edge := map[string]string{"edge": "yes"}
	for _, c := range []struct {
		name     string
		services []*v1.Service
		docs     []string
		node     *v1.Node
		ready    string
		others   map[string]string
		want     string // addresses, with the offer and devices
	}{
		{name: "no document", want: ""},
		{name: "a document", docs: []string{advert("")}, want: "192.0.2.1 [1]"},
		{name: "another controller's class", services: []*v1.Service{balancer("a", foreign)}, docs: []string{advert("")}, want: ""},
		{name: "another pool", docs: []string{advert("ipAddressPools: [other]")}, want: ""},
		{name: "a node that is selected", docs: []string{advert("nodeSelectors: [{matchLabels: {edge: 'yes'}}]")}, node: node(edge, false), want: "192.0.2.1 [1]"},
		{name: "a node that is not", docs: []string{advert("nodeSelectors: [{matchLabels: {edge: 'yes'}}]")}, node: node(nil, false), want: "192.0.2.1 selector []"},
		{name: "no Node object, and a selector", docs: []string{advert("nodeSelectors: [{matchLabels: {edge: 'yes'}}]")}, want: "192.0.2.1 selector []"},
		{name: "a node that is preferred", docs: []string{advert("preferredNodeSelectors: [{weight: 7, preference: {matchLabels: {edge: 'yes'}}}]")}, node: node(edge, false), want: "192.0.2.1 weight 7 [1]"},
		{name: "cordoned", docs: []string{advert("")}, node: node(nil, true), want: "192.0.2.1 last [1]"},
		{name: "excluded", docs: []string{advert("")}, node: node(map[string]string{v1.LabelNodeExcludeBalancers: ""}, false), want: "192.0.2.1 excluded [1]"},
		{name: "devices that are listed", docs: []string{advert("interfaces: [eth1, nosuch]")}, want: "192.0.2.1 [2]"},
		{name: "devices that are not there", docs: []string{advert("interfaces: [nosuch]")}, want: "192.0.2.1 device []"},
		{name: "a device without a link", docs: []string{advert("interfaces: [eth2]")}, want: "192.0.2.1 carrier [3]"},
		{name: "Local without an endpoint", services: []*v1.Service{balancer("a", local)}, docs: []string{advert("")}, want: "192.0.2.1 endpoint [1]"},
		{name: "Local with one", services: []*v1.Service{balancer("a", local)}, docs: []string{advert("")}, ready: "a", want: "192.0.2.1 [1]"},
		{name: "shared, one with an endpoint", services: []*v1.Service{balancer("a", local), balancer("b", local)}, docs: []string{advert("")}, ready: "b", want: "192.0.2.1 [1]"},
		{name: "MetalLB's speaker", docs: []string{advert("")}, others: map[string]string{pools.KindL2Advertisement: "it"}, want: "192.0.2.1 other []"},
		{name: "Cilium's agent, and MetalLB's documents", docs: []string{advert("")}, others: map[string]string{pools.KindCiliumL2Announcement: "it"}, want: "192.0.2.1 [1]"},
		{name: "Cilium's policy", docs: []string{policy("loadBalancerIPs: true")}, want: "192.0.2.1 [1]"},
		{name: "Cilium's policy for neither", docs: []string{policy("")}, want: ""},
		{name: "Cilium's policy, devices", docs: []string{policy("loadBalancerIPs: true, interfaces: ['^eth[01]$']")}, want: "192.0.2.1 [1 2]"},
		{name: "Cilium's policy, Services", docs: []string{policy("loadBalancerIPs: true, serviceSelector: {matchLabels: {io.kubernetes.service.name: b}}")}, want: ""},
		{name: "external IPs", services: []*v1.Service{balancer("a", external)}, docs: []string{policy("externalIPs: true")}, want: "192.0.2.9 [1]"},
		{name: "external IPs, and MetalLB's documents", services: []*v1.Service{balancer("a", external)}, docs: []string{advert("")}, want: "192.0.2.1 [1]"},
	} {
		in := Inputs{Services: c.services, Node: c.node, Set: documents(t, append(c.docs, pool)...), Devices: devices, Others: c.others,
			LocalReady: func(n types.NamespacedName) bool { return n.Name == c.ready }}
		if in.Services == nil {
			in.Services = []*v1.Service{balancer("a")}
		}
		var got []string
		for addr, at := range evaluate(in) {
			words := []string{addr.String()}
			if at.Not != Offered {
				words = append(words, string(at.Not))
			}
			if at.Last {
				words = append(words, "last")
			}
			if at.Weight != 0 {
				words = append(words, fmt.Sprint("weight ", at.Weight))
			}
			got = append(got, strings.Join(append(words, fmt.Sprint(at.devices)), " "))
		}
		if text := strings.Join(got, ", "); text != c.want {
			t.Errorf("%s: %s, want %s", c.name, text, c.want)
		}
	}
}

// TestChoose: what all agents, of all versions, must agree in.
func TestChoose(t *testing.T) {
	addr := netip.MustParseAddr("192.0.2.1")
	if got := score(addr, "node-1"); got != 0x75e49d6073e2767f {
		t.Errorf("the hash of %s and node-1 is %#x: it must never change", addr, got)
	}
	names := func(list ...candidate) string {
		best, ok := choose(addr, list)
		if !ok {
			return ""
		}
		return best.name
	}
	a, b := candidate{name: "a"}, candidate{name: "b"}
	first := names(a, b)
	if first != names(b, a) {
		t.Error("the order of candidates matters")
	}
	other := map[string]string{"a": "b", "b": "a"}[first]
	if got := names(candidate{first, Offer{Last: true}}, candidate{other, Offer{}}); got != other {
		t.Errorf("a cordoned node is chosen: %s", got)
	}
	if got := names(candidate{first, Offer{}}, candidate{other, Offer{Weight: 1}}); got != other {
		t.Errorf("the node that is preferred is not chosen: %s", got)
	}
	if got := names(candidate{first, Offer{Weight: 100, Last: true}}, candidate{other, Offer{}}); got != other {
		t.Errorf("a cordoned node is chosen since it is preferred: %s", got)
	}
	if got := names(); got != "" {
		t.Errorf("of no candidates %s is chosen", got)
	}

	// Addresses are spread, and where a node goes only its own ones move.
	count := map[string]int{}
	for i := range 3000 {
		addr = netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})
		with := names(candidate{name: "node-1"}, candidate{name: "node-2"}, candidate{name: "node-3"})
		without := names(candidate{name: "node-1"}, candidate{name: "node-2"})
		count[with]++
		if with != "node-3" && with != without {
			t.Fatalf("%s moves from %s to %s since node-3 goes", addr, with, without)
		}
	}
	for name, n := range count {
		if n < 900 || n > 1100 {
			t.Errorf("%s has %d of 3000 addresses", name, n)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// documents reads YAML, strictly.
func documents(t testing.TB, text string) []Document {
	t.Helper()
	var all []Document
	for _, one := range strings.Split(text, "\n---\n") {
		if strings.TrimSpace(one) == "" {
			continue
		}
		var meta metav1.TypeMeta
		must(t, yaml.Unmarshal([]byte(one), &meta))
		kind, ok := KindOf(meta.APIVersion, meta.Kind)
		if !ok {
			t.Fatalf("%+v is no kind that is read", meta)
		}
		d := kind.New()
		must(t, yaml.UnmarshalStrict([]byte(one), d))
		all = append(all, d)
	}
	return all
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// metallb is a pool of MetalLB's; more are further lines of its spec.
func metallb(name string, addresses string, more ...string) string {
	return fmt.Sprintf("apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: %s, namespace: metallb-system}\nspec:\n  addresses: [%s]\n%s\n---\n",
		name, addresses, indent(more))
}

// cilium is a pool of Cilium's; blocks are as in a list in braces.
func cilium(name string, blocks string, more ...string) string {
	return fmt.Sprintf("apiVersion: cilium.io/v2\nkind: CiliumLoadBalancerIPPool\nmetadata: {name: %s}\nspec:\n  blocks: [%s]\n%s\n---\n",
		name, blocks, indent(more))
}

func indent(lines []string) string {
	if len(lines) == 0 {
		return ""
	}
	return "  " + strings.Join(lines, "\n  ")
}

// change edits a Service.
type change func(*Service)

// service is a load balancer with port 80, of IPv4.
func service(name string, changes ...change) Service {
	s := Service{Service: &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Annotations: map[string]string{}, Labels: map[string]string{}},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeLoadBalancer, Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP}},
			IPFamilyPolicy: ptr.To(v1.IPFamilyPolicySingleStack), IPFamilies: []v1.IPFamily{v1.IPv4Protocol},
			ExternalTrafficPolicy: v1.ServiceExternalTrafficPolicyCluster, Selector: map[string]string{"app": name},
		},
	}}
	for _, c := range changes {
		c(&s)
	}
	return s
}

func in(namespace string) change { return func(s *Service) { s.Namespace = namespace } }

func annotated(key, value string) change { return func(s *Service) { s.Annotations[key] = value } }

func labelled(key, value string) change { return func(s *Service) { s.Labels[key] = value } }

func port(n int32, protocol v1.Protocol) change {
	return func(s *Service) { s.Spec.Ports = []v1.ServicePort{{Port: n, Protocol: protocol}} }
}

func local(selector string) change {
	return func(s *Service) {
		s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		s.Spec.Selector = map[string]string{"app": selector}
	}
}

func families(policy v1.IPFamilyPolicy, list ...v1.IPFamily) change {
	return func(s *Service) { s.Spec.IPFamilyPolicy, s.Spec.IPFamilies = &policy, list }
}

func typed(kind v1.ServiceType) change { return func(s *Service) { s.Spec.Type = kind } }

func class(name string) change { return func(s *Service) { s.Spec.LoadBalancerClass = &name } }

func asks(ip string) change { return func(s *Service) { s.Spec.LoadBalancerIP = ip } }

func created(minute int) change {
	return func(s *Service) { s.CreationTimestamp = metav1.NewTime(time.Unix(int64(minute)*60, 0)) }
}

// has gives a Service an address; from is its recorded pool, "" for none.
func has(addr, from string) change {
	return func(s *Service) {
		ref, _ := ParseRef(from)
		s.Has = append(s.Has, Held{netip.MustParseAddr(addr), ref})
	}
}

// plan makes a plan and carries it out, on Services that are given and that the result shows.
func plan(t testing.TB, docs string, classes Classes, services ...Service) Plan {
	t.Helper()
	in := Input{Set: NewSet(documents(t, docs)), Services: services, Classes: classes, Namespaces: map[string]labels.Set{
		"default": {"kubernetes.io/metadata.name": "default"}, "blue": {"colour": "blue"},
	}}
	p := Make(in)
	carryOut(services, p)
	return p
}

func carryOut(services []Service, p Plan) {
	for _, c := range p.Changes {
		for i := range services {
			if services[i].key() == c.NamespacedName {
				services[i].Has = c.Addresses
			}
		}
	}
}

// addrs are the addresses of a Service, in a line.
func addrs(s Service) string {
	var list []string
	for _, h := range s.Has {
		list = append(list, h.Addr.String())
	}
	return strings.Join(list, " ")
}

// problemsOf are the problems in lines: object, field, message.
func problemsOf(p Plan) []string {
	var list []string
	for _, q := range p.Problems {
		list = append(list, fmt.Sprintf("%s: %s: %s", q.Object, q.Field, q.Message))
	}
	return list
}

func conditionFor(record string) metav1.Condition {
	return metav1.Condition{Type: ConditionType, Status: metav1.ConditionTrue, Reason: ReasonAllocated, Message: record}
}

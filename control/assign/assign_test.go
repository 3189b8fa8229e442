// SPDX-License-Identifier: Apache-2.0

package assign

import (
	"io"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/waggle-lb/waggle/control/pools"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPatch: what a status is like when an API server has applied the patch.
func TestPatch(t *testing.T) {
	earlier, now := metav1.NewTime(time.Unix(1000, 0)), time.Unix(2000, 0)
	addr, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	first := pools.Ref{Kind: pools.KindIPAddressPool, Namespace: "ns", Name: "first"}
	foreign := metav1.Condition{Type: "Other", Status: metav1.ConditionTrue, Reason: "R", LastTransitionTime: earlier}
	ours := func(reason, message string, since metav1.Time) metav1.Condition {
		return metav1.Condition{Type: pools.ConditionType, Status: metav1.ConditionTrue, Reason: reason, Message: message, LastTransitionTime: since}
	}
	port := v1.PortStatus{Port: 80, Protocol: v1.ProtocolTCP}
	vip := func(ip string) v1.LoadBalancerIngress {
		return v1.LoadBalancerIngress{IP: ip, IPMode: ptr.To(v1.LoadBalancerIPModeVIP)}
	}
	withPort := vip("192.0.2.1")
	withPort.Ports = []v1.PortStatus{port}
	for name, c := range map[string]struct {
		before v1.ServiceStatus
		change pools.Change
		want   v1.ServiceStatus
	}{
		"allocated": {
			v1.ServiceStatus{Conditions: []metav1.Condition{foreign}}, pools.Change{Addresses: []pools.Held{{Addr: addr, From: first}}},
			v1.ServiceStatus{
				LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{vip("192.0.2.1")}},
				Conditions:   []metav1.Condition{foreign, ours(pools.ReasonAllocated, "192.0.2.1 from IPAddressPool ns/first", metav1.NewTime(now))},
			},
		},
		"adopted": {
			v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{withPort}}},
			pools.Change{Addresses: []pools.Held{{Addr: addr, From: first}}, Adopted: true},
			v1.ServiceStatus{
				LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{withPort}},
				Conditions:   []metav1.Condition{ours(pools.ReasonAdopted, "192.0.2.1 from IPAddressPool ns/first", metav1.NewTime(now))},
			},
		},
		"the pool has another name": {
			v1.ServiceStatus{
				LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{vip("192.0.2.1")}},
				Conditions:   []metav1.Condition{ours(pools.ReasonAllocated, "192.0.2.1 from IPAddressPool ns/old", earlier)},
			},
			pools.Change{Addresses: []pools.Held{{Addr: addr, From: first}}, Adopted: true},
			v1.ServiceStatus{
				LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{vip("192.0.2.1")}},
				Conditions:   []metav1.Condition{ours(pools.ReasonAllocated, "192.0.2.1 from IPAddressPool ns/first", earlier)},
			},
		},
		"another address": {
			v1.ServiceStatus{LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{vip("192.0.2.1"), vip("192.0.2.9")}}},
			pools.Change{Addresses: []pools.Held{{Addr: other, From: first}}},
			v1.ServiceStatus{
				LoadBalancer: v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{vip("192.0.2.2")}},
				Conditions:   []metav1.Condition{ours(pools.ReasonAllocated, "192.0.2.2 from IPAddressPool ns/first", metav1.NewTime(now))},
			},
		},
	} {
		s := &v1.Service{Status: c.before}
		patch, err := patchOf(s, c.change, now)
		must(t, err)
		raw, err := yaml.Marshal(s)
		must(t, err)
		raw, err = yaml.YAMLToJSON(raw)
		must(t, err)
		patched, err := strategicpatch.StrategicMergePatch(raw, patch, v1.Service{})
		must(t, err)
		var got v1.Service
		must(t, yaml.Unmarshal(patched, &got))
		for i := range got.Status.Conditions {
			got.Status.Conditions[i].LastTransitionTime = metav1.NewTime(got.Status.Conditions[i].LastTransitionTime.Local())
		}
		byType := func(list []metav1.Condition) map[string]metav1.Condition {
			all := map[string]metav1.Condition{}
			for _, c := range list {
				all[c.Type] = c
			}
			return all
		}
		if diff := cmp.Diff(c.want.LoadBalancer, got.Status.LoadBalancer); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if diff := cmp.Diff(byType(c.want.Conditions), byType(got.Status.Conditions)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// TestProblems: what is news, and since when it is so.
func TestProblems(t *testing.T) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	p := newProblems(logrus.NewEntry(log))
	a, b := pools.Problem{Message: "a"}, pools.Problem{Message: "b"}
	if news := p.set("x", []pools.Problem{a}); len(news) != 1 {
		t.Errorf("news %v", news)
	}
	since := p.list()[0].Since
	if news := p.set("x", []pools.Problem{b, a}); len(news) != 1 || news[0] != b {
		t.Errorf("news %v", news)
	}
	if list := p.list(); len(list) != 2 || list[0].Message != "a" || !list[0].Since.Equal(since) {
		t.Errorf("problems %v", list)
	}
	p.set("x", nil)
	if list := p.list(); len(list) != 0 {
		t.Errorf("problems %v", list)
	}
	if news := p.set("x", []pools.Problem{a}); len(news) != 1 {
		t.Errorf("a problem that was over is no news: %v", news)
	}
}

// TestDecode: a field of a later version is a problem, and the rest is in force.
func TestDecode(t *testing.T) {
	k, ok := pools.KindOf("metallb.io/v1beta1", pools.KindIPAddressPool)
	if !ok {
		t.Fatal("no such kind")
	}
	object := &unstructured.Unstructured{}
	must(t, yaml.Unmarshal([]byte(`{apiVersion: metallb.io/v1beta1, kind: IPAddressPool, metadata: {name: a, namespace: ns},
spec: {addresses: [192.0.2.0/24], later: true}, status: {assignedIPv4: 1}}`), &object.Object))
	got, err := decode(k, object)
	must(t, err)
	d, ok := got.(*decoded)
	if !ok || d.Ref().String() != "IPAddressPool ns/a" || len(d.Validate()) > 0 || !slices.Equal(d.unknown, []string{"spec.later"}) {
		t.Errorf("%+v", got)
	}
}

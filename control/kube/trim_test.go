// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	networking "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// ballast is metadata that every object has and the agent does not read.
func ballast(labels map[string]string, annotations map[string]string) metav1.ObjectMeta {
	m := metav1.ObjectMeta{
		Namespace: "n", Name: "x", UID: "u", ResourceVersion: "1", Labels: labels,
		Annotations:     map[string]string{"kubectl.kubernetes.io/last-applied-configuration": "{..}"},
		ManagedFields:   []metav1.ManagedFieldsEntry{{Manager: "kubectl"}},
		OwnerReferences: []metav1.OwnerReference{{Name: "o"}},
	}
	for k, v := range annotations {
		m.Annotations[k] = v
	}
	return m
}

func lean(labels, annotations map[string]string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: "n", Name: "x", UID: "u", ResourceVersion: "1", Labels: labels, Annotations: annotations}
}

func TestTrim(t *testing.T) {
	labels := map[string]string{"l": "v"}
	labelled, read := map[string]string{"l": "v", discovery.LabelServiceName: "s"}, map[string]string{discovery.LabelServiceName: "s"}
	changed := map[string]string{v1.EndpointsLastChangeTriggerTime: "2026-01-01T00:00:00Z"}
	ingress := v1.LoadBalancerStatus{Ingress: []v1.LoadBalancerIngress{{IP: "192.0.2.1"}}}
	endpoint := discovery.Endpoint{
		Addresses: []string{"10.1.0.1"}, NodeName: ptr.To("node-a"),
		Conditions: discovery.EndpointConditions{Ready: ptr.To(true)},
		Hints:      &discovery.EndpointHints{ForZones: []discovery.ForZone{{Name: "z"}}},
	}
	fat := endpoint
	fat.Hostname, fat.TargetRef, fat.DeprecatedTopology, fat.Zone = ptr.To("h"), &v1.ObjectReference{Name: "pod"}, labels, ptr.To("z")
	elsewhere, away := fat, endpoint
	elsewhere.NodeName, away.NodeName = ptr.To("node-b"), nil
	addresses := []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "10.0.0.1"}}
	taints := []v1.Taint{{Key: "ToBeDeletedByClusterAutoscaler"}}
	for name, test := range map[string]struct{ before, after any }{
		"Node": {
			&v1.Node{ObjectMeta: ballast(labels, nil), Spec: v1.NodeSpec{ProviderID: "p", PodCIDR: "10.1.0.0/24", PodCIDRs: []string{"10.1.0.0/24"}, Taints: taints},
				Status: v1.NodeStatus{Addresses: addresses, Images: make([]v1.ContainerImage, 50), Conditions: make([]v1.NodeCondition, 5)}},
			&v1.Node{ObjectMeta: lean(labels, nil), Spec: v1.NodeSpec{PodCIDR: "10.1.0.0/24", PodCIDRs: []string{"10.1.0.0/24"}, Taints: taints}, Status: v1.NodeStatus{Addresses: addresses}},
		},
		"EndpointSlice": {
			&discovery.EndpointSlice{ObjectMeta: ballast(labelled, changed), AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{fat, elsewhere}, Ports: []discovery.EndpointPort{{Port: ptr.To[int32](80)}}},
			&discovery.EndpointSlice{ObjectMeta: lean(read, changed), AddressType: discovery.AddressTypeIPv4, Endpoints: []discovery.Endpoint{endpoint, away},
				Ports: []discovery.EndpointPort{{Name: ptr.To(""), Protocol: ptr.To(v1.ProtocolTCP), Port: ptr.To[int32](80)}}},
		},
		"ServiceCIDR": {
			&networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "x", Annotations: labels, ManagedFields: make([]metav1.ManagedFieldsEntry, 1)}},
			&networking.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "x"}},
		},
	} {
		got, err := trim("node-a")(test.before)
		must(t, err)
		if diff := cmp.Diff(test.after, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	svc := &v1.Service{ObjectMeta: ballast(labels, nil), Spec: v1.ServiceSpec{Selector: labels, SessionAffinity: v1.ServiceAffinityClientIP, Ports: []v1.ServicePort{{Port: 80}}},
		Status: v1.ServiceStatus{LoadBalancer: ingress, Conditions: make([]metav1.Condition, 1)}}
	_, err := trim("node-a")(svc)
	must(t, err)
	if diff := cmp.Diff(lean(nil, nil), svc.ObjectMeta); diff != "" {
		t.Errorf("Service (-want +got):\n%s", diff)
	}
	ingress.Ingress[0].IPMode = ptr.To(v1.LoadBalancerIPModeVIP)
	if diff := cmp.Diff(v1.ServiceStatus{LoadBalancer: ingress}, svc.Status); diff != "" {
		t.Errorf("Service's status (-want +got):\n%s", diff)
	}
	if s := svc.Spec; s.Ports[0].Protocol != v1.ProtocolTCP || s.Selector != nil || s.SessionAffinityConfig == nil || *s.SessionAffinityConfig.ClientIP.TimeoutSeconds != 10800 {
		t.Errorf("Service's spec: %+v", s)
	}
	if gone, err := trim("node-a")("something else"); err != nil || gone != "something else" {
		t.Errorf("got %v, error %v", gone, err)
	}
}

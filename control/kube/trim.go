// SPDX-License-Identifier: Apache-2.0

package kube

import (
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	discoveryv1 "k8s.io/kubernetes/pkg/apis/discovery/v1"
)

// trim drops from an object what nobody here reads before it is cached, and sets the defaults
// that kube-proxy's trackers rely on: an API server sets them, but the trackers panic without.
func trim(object any) (any, error) {
	switch o := object.(type) {
	case *v1.Service:
		trimMeta(&o.ObjectMeta)
		o.Status = v1.ServiceStatus{LoadBalancer: o.Status.LoadBalancer}
		corev1.SetObjectDefaults_Service(o)
	case *discovery.EndpointSlice:
		trimMeta(&o.ObjectMeta, v1.EndpointsLastChangeTriggerTime)
		for i := range o.Endpoints {
			e := &o.Endpoints[i]
			e.Hostname, e.TargetRef, e.DeprecatedTopology = nil, nil, nil
		}
		discoveryv1.SetObjectDefaults_EndpointSlice(o)
	case *v1.Node:
		trimMeta(&o.ObjectMeta)
		o.Spec = v1.NodeSpec{PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs, Taints: o.Spec.Taints}
		o.Status = v1.NodeStatus{Addresses: o.Status.Addresses}
	case metav1.Object:
		o.SetManagedFields(nil)
		o.SetAnnotations(nil)
	}
	return object, nil
}

// trimMeta keeps labels, which decide a lot, and only these annotations.
func trimMeta(m *metav1.ObjectMeta, annotations ...string) {
	var kept map[string]string
	for _, name := range annotations {
		if value, ok := m.Annotations[name]; ok {
			if kept == nil {
				kept = map[string]string{}
			}
			kept[name] = value
		}
	}
	m.Annotations = kept
	m.ManagedFields = nil
	m.OwnerReferences = nil
	m.Finalizers = nil
}

// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	corev1 "k8s.io/kubernetes/pkg/apis/core/v1"
	discoveryv1 "k8s.io/kubernetes/pkg/apis/discovery/v1"
	"k8s.io/kubernetes/pkg/proxy/apis"

	"github.com/waggle-lb/waggle/control/pools"
)

// The labels of Services and of EndpointSlices that the agent reads.
var readLabels = []string{v1.IsHeadlessService, apis.LabelServiceProxyName, discovery.LabelServiceName}

// trim removes from an object what nothing on the node of that name reads, before the object is
// cached. It sets the defaults that kube-proxy's trackers rely on: an API server sets them, but the
// trackers panic without.
func trim(nodeName string) cache.TransformFunc {
	return func(object any) (any, error) {
		switch o := object.(type) {
		case *v1.Service:
			trimMeta(&o.ObjectMeta)
			o.Labels = kept(o.Labels, readLabels...)
			o.Spec.Selector = nil
			o.Status = v1.ServiceStatus{LoadBalancer: o.Status.LoadBalancer, Conditions: ours(o.Status.Conditions)}
			corev1.SetObjectDefaults_Service(o)
		case *discovery.EndpointSlice:
			trimMeta(&o.ObjectMeta, v1.EndpointsLastChangeTriggerTime)
			o.Labels = kept(o.Labels, readLabels...)
			o.Endpoints = slices.Clone(o.Endpoints) // decoding has grown it, and left unused room
			for i := range o.Endpoints {
				trimEndpoint(&o.Endpoints[i], nodeName)
			}
			discoveryv1.SetObjectDefaults_EndpointSlice(o)
		case *v1.Node:
			trimMeta(&o.ObjectMeta)
			o.Spec = v1.NodeSpec{Unschedulable: o.Spec.Unschedulable, PodCIDR: o.Spec.PodCIDR, PodCIDRs: o.Spec.PodCIDRs, Taints: o.Spec.Taints}
			o.Status = v1.NodeStatus{Addresses: o.Status.Addresses}
		case metav1.Object:
			o.SetManagedFields(nil)
			o.SetAnnotations(nil)
		}
		return object, nil
	}
}

// ours is the condition that says which pools the addresses are from, if there is one.
func ours(all []metav1.Condition) []metav1.Condition {
	for i := range all {
		if all[i].Type == pools.ConditionType {
			return []metav1.Condition{all[i]}
		}
	}
	return nil
}

// trimEndpoint leaves of the node's name whether it is ours. What many endpoints have in common is
// kept once.
func trimEndpoint(e *discovery.Endpoint, nodeName string) {
	e.Hostname, e.TargetRef, e.DeprecatedTopology, e.Zone = nil, nil, nil, nil
	if e.NodeName != nil && *e.NodeName != nodeName {
		e.NodeName = nil
	}
	for _, c := range []**bool{&e.Conditions.Ready, &e.Conditions.Serving, &e.Conditions.Terminating} {
		if *c != nil {
			*c = shared(**c)
		}
	}
}

// The values that all conditions point to.
var yes, no = true, false

func shared(b bool) *bool {
	if b {
		return &yes
	}
	return &no
}

// trimMeta keeps labels, which many decisions need, and only these annotations.
func trimMeta(m *metav1.ObjectMeta, annotations ...string) {
	m.Annotations = kept(m.Annotations, annotations...)
	m.ManagedFields = nil
	m.OwnerReferences = nil
	m.Finalizers = nil
}

// kept returns a map's elements with some keys; nil if there are none.
func kept(all map[string]string, names ...string) (some map[string]string) {
	for _, name := range names {
		if value, ok := all[name]; ok {
			if some == nil {
				some = map[string]string{}
			}
			some[name] = value
		}
	}
	return some
}

// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

const managedBy = "manifest.waggle"

// podFault is the reason why a Pod is not in a slice, or not in one port of it.
type podFault struct {
	pod     *v1.Pod
	port    int // of the Service; -1 if the Pod is left out altogether
	message string
}

// sliceMaker makes the EndpointSlices of one Service, as the endpoint slice controller does.
type sliceMaker struct {
	service *v1.Service
	zoneOf  func(node string) string
	made    map[string]*discovery.EndpointSlice // by name
	faults  []podFault
}

// makeSlices makes the slices of a Service from the Pods it selects, one for each family. Pods
// whose named ports resolve to different numbers go to different slices.
func makeSlices(service *v1.Service, pods []*v1.Pod, zoneOf func(string) string) ([]*discovery.EndpointSlice, []podFault) {
	m := &sliceMaker{service: service, zoneOf: zoneOf, made: map[string]*discovery.EndpointSlice{}}
	if !hasNamedTarget(service) {
		for _, family := range service.Spec.IPFamilies {
			m.slice(family, resolvePorts(service, &v1.Pod{})) // without endpoints, if no Pod comes
		}
	}
	for _, pod := range pods {
		m.add(pod)
	}
	var all []*discovery.EndpointSlice
	for _, name := range slices.Sorted(maps.Keys(m.made)) {
		all = append(all, m.made[name])
	}
	return all, m.faults
}

func (m *sliceMaker) add(pod *v1.Pod) {
	if pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return
	}
	if len(pod.Status.PodIPs) == 0 {
		m.faults = append(m.faults, podFault{pod, -1, "Required value: a Service selects the Pod, but it has no IP"})
		return
	}
	found := resolvePorts(m.service, pod)
	for _, i := range found.missing {
		p := m.service.Spec.Ports[i]
		m.faults = append(m.faults, podFault{pod, i, fmt.Sprintf(
			"Pod %s/%s has no %s port named %q, and is left out of this port", pod.Namespace, pod.Name, p.Protocol, p.TargetPort.StrVal)})
	}
	if len(found.ports) == 0 && len(found.missing) > 0 {
		return
	}
	for _, ip := range pod.Status.PodIPs {
		addr, _ := parseAddr(ip.IP)
		if family := familyOf(addr); slices.Contains(m.service.Spec.IPFamilies, family) {
			s := m.slice(family, found)
			s.Endpoints = append(s.Endpoints, m.endpoint(pod, addr.String()))
		}
	}
}

// slice is the one for a family and some ports. Its name has a capital letter, which neither an API
// server nor this package allows in a manifest: so no slice in a manifest can have the name of one
// of these.
func (m *sliceMaker) slice(family v1.IPFamily, found podPorts) *discovery.EndpointSlice {
	name := fmt.Sprintf("%s-%s%s", m.service.Name, family, found.suffix(m.service))
	if m.made[name] == nil {
		m.made[name] = &discovery.EndpointSlice{
			TypeMeta: metav1.TypeMeta{
				APIVersion: discovery.SchemeGroupVersion.String(), Kind: kindEndpointSlice,
			},
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: m.service.Namespace, Labels: sliceLabels(m.service),
			},
			AddressType: discovery.AddressType(family),
			Ports:       found.ports,
		}
	}
	return m.made[name]
}

// sliceLabels copies the labels of the Service: by these a proxy ignores the slices of other proxies.
func sliceLabels(service *v1.Service) map[string]string {
	all := maps.Clone(service.Labels)
	if all == nil {
		all = map[string]string{}
	}
	delete(all, v1.IsHeadlessService)
	if service.Spec.ClusterIP == v1.ClusterIPNone {
		all[v1.IsHeadlessService] = ""
	}
	all[discovery.LabelServiceName] = service.Name
	all[discovery.LabelManagedBy] = managedBy
	return all
}

func (m *sliceMaker) endpoint(pod *v1.Pod, address string) discovery.Endpoint {
	serving, terminating := isReady(pod), pod.DeletionTimestamp != nil
	ready := m.service.Spec.PublishNotReadyAddresses || serving && !terminating
	e := discovery.Endpoint{
		Addresses: []string{address},
		Conditions: discovery.EndpointConditions{
			Ready: ptr.To(ready), Serving: ptr.To(serving), Terminating: ptr.To(terminating),
		},
		Hostname:  hostname(m.service, pod),
		TargetRef: &v1.ObjectReference{Kind: kindPod, Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
	}
	if node := pod.Spec.NodeName; node != "" {
		e.NodeName = ptr.To(node)
		if zone := m.zoneOf(node); zone != "" {
			e.Zone = ptr.To(zone)
		}
	}
	e.Hints = hints(m.service.Spec.TrafficDistribution, &e)
	return e
}

// hostname is the name of a Pod within the Service that is its subdomain; nil: it has none.
func hostname(service *v1.Service, pod *v1.Pod) *string {
	if pod.Spec.Hostname == "" || pod.Spec.Subdomain != service.Name {
		return nil
	}
	return ptr.To(pod.Spec.Hostname)
}

// isReady counts a Pod without a Ready condition as ready: no kubelet writes one here.
func isReady(pod *v1.Pod) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return true
}

// hints keep traffic in the zone of an endpoint, or on its node, if the Service asks for that.
func hints(distribution *string, e *discovery.Endpoint) *discovery.EndpointHints {
	if distribution == nil || !*e.Conditions.Ready {
		return nil
	}
	var h discovery.EndpointHints
	if e.Zone != nil {
		h.ForZones = []discovery.ForZone{{Name: *e.Zone}}
	}
	if e.NodeName != nil && *distribution == v1.ServiceTrafficDistributionPreferSameNode {
		h.ForNodes = []discovery.ForNode{{Name: *e.NodeName}}
	}
	if h.ForZones == nil && h.ForNodes == nil {
		return nil
	}
	return &h
}

// path returns the field at fault: the Service's if a port is missing, else the Pod's.
func (f podFault) path() *field.Path {
	if f.port < 0 {
		return field.NewPath("status", "podIP")
	}
	return field.NewPath("spec", "ports").Index(f.port).Child("targetPort")
}

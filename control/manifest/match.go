// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// label is one label in one namespace.
type label struct{ namespace, key, value string }

// matcher finds the Pods of a Service and the Services of a Pod without looking at all of them.
type matcher struct {
	pods     map[objectKey]*v1.Pod
	services map[objectKey]*v1.Service // those with a selector

	podsByLabel    map[label]keySet
	podsByNode     map[string]keySet
	servicesByPair map[label]keySet // by one pair of the selector
}

func newMatcher() *matcher {
	return &matcher{
		pods:           map[objectKey]*v1.Pod{},
		services:       map[objectKey]*v1.Service{},
		podsByLabel:    map[label]keySet{},
		podsByNode:     map[string]keySet{},
		servicesByPair: map[label]keySet{},
	}
}

// setPod replaces a Pod, and adds the Services that select it or did.
func (m *matcher) setPod(key objectKey, pod *v1.Pod, affected keySet) {
	if old := m.pods[key]; old != nil {
		affected.add(m.servicesOf(old)...)
		for k, v := range old.Labels {
			delist(m.podsByLabel, label{key.namespace, k, v}, key)
		}
		delist(m.podsByNode, old.Spec.NodeName, key)
		delete(m.pods, key)
	}
	if pod == nil {
		return
	}
	m.pods[key] = pod
	for k, v := range pod.Labels {
		enlist(m.podsByLabel, label{key.namespace, k, v}, key)
	}
	enlist(m.podsByNode, pod.Spec.NodeName, key)
	affected.add(m.servicesOf(pod)...)
}

// setService replaces a Service.
func (m *matcher) setService(key objectKey, service *v1.Service) {
	if old := m.services[key]; old != nil {
		delist(m.servicesByPair, somePair(old), key)
		delete(m.services, key)
	}
	if service == nil || !selects(service) {
		return
	}
	m.services[key] = service
	enlist(m.servicesByPair, somePair(service), key)
}

// servicesOnNode adds the Services with a Pod on a node.
func (m *matcher) servicesOnNode(node string, affected keySet) {
	for key := range m.podsByNode[node] {
		affected.add(m.servicesOf(m.pods[key])...)
	}
}

func (m *matcher) servicesOf(pod *v1.Pod) []objectKey {
	var found []objectKey
	for k, v := range pod.Labels {
		for key := range m.servicesByPair[label{pod.Namespace, k, v}] {
			if labels.SelectorFromSet(m.services[key].Spec.Selector).Matches(labels.Set(pod.Labels)) {
				found = append(found, key)
			}
		}
	}
	return found
}

// podsOf lists the Pods that a Service selects, in the order of names.
func (m *matcher) podsOf(service *v1.Service) []*v1.Pod {
	least := m.podsByLabel[somePair(service)]
	for k, v := range service.Spec.Selector {
		if set := m.podsByLabel[label{service.Namespace, k, v}]; len(set) < len(least) {
			least = set
		}
	}
	selector := labels.SelectorFromSet(service.Spec.Selector)
	var found []*v1.Pod
	for _, key := range least.sorted() {
		if pod := m.pods[key]; selector.Matches(labels.Set(pod.Labels)) {
			found = append(found, pod)
		}
	}
	return found
}

// selects reports whether the source makes slices for a Service.
func selects(s *v1.Service) bool {
	return len(s.Spec.Selector) > 0 && s.Spec.Type != v1.ServiceTypeExternalName
}

// somePair is the pair of a selector that comes first in the order of keys.
func somePair(s *v1.Service) label {
	first := label{namespace: s.Namespace}
	for k, v := range s.Spec.Selector {
		if first.key == "" || k < first.key {
			first.key, first.value = k, v
		}
	}
	return first
}

func enlist[K comparable](sets map[K]keySet, under K, key objectKey) {
	if sets[under] == nil {
		sets[under] = keySet{}
	}
	sets[under].add(key)
}

func delist[K comparable](sets map[K]keySet, under K, key objectKey) {
	delete(sets[under], key)
	if len(sets[under]) == 0 {
		delete(sets, under)
	}
}

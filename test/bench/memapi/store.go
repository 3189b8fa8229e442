// SPDX-License-Identifier: Apache-2.0

// Package memapi is an API server that serves objects from memory: lists and watches, as protobuf
// or JSON, and nothing else. Proxies can be measured with more objects than a real API server would
// accept in the time, at the same cost for them.
package memapi

import (
	"fmt"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// Object is a served object.
type Object interface {
	runtime.Object
	metav1.Object
}

// Store holds objects. It may be served at several addresses at once.
type Store struct {
	mu      sync.Mutex
	changed chan struct{} // closed at a change
	version uint64
	kinds   map[string]*kind
}

// kind is the objects of one resource, with all events since the beginning.
type kind struct {
	objects map[string]Object
	order   []string
	events  []event
}

type event struct {
	version uint64
	watch.Event
}

// NewStore makes an empty store.
func NewStore() *Store {
	return &Store{changed: make(chan struct{}), version: 1, kinds: map[string]*kind{
		"services": newKind(), "endpointslices": newKind(), "nodes": newKind(), "servicecidrs": newKind(),
	}}
}

func newKind() *kind { return &kind{objects: map[string]Object{}} }

func resourceOf(o Object) string {
	switch o.(type) {
	case *corev1.Service:
		return "services"
	case *discoveryv1.EndpointSlice:
		return "endpointslices"
	case *corev1.Node:
		return "nodes"
	}
	panic(fmt.Sprintf("memapi does not serve %T", o))
}

func keyOf(o Object) string { return o.GetNamespace() + "/" + o.GetName() }

// Put adds or replaces objects. The caller must not modify them afterwards.
func (s *Store) Put(objects ...Object) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, o := range objects {
		k := s.kinds[resourceOf(o)]
		s.version++
		o.SetResourceVersion(strconv.FormatUint(s.version, 10))
		what := watch.Modified
		if k.objects[keyOf(o)] == nil {
			what = watch.Added
			k.order = append(k.order, keyOf(o))
		}
		k.objects[keyOf(o)] = o
		k.events = append(k.events, event{s.version, watch.Event{Type: what, Object: o}})
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// list returns the objects of a resource that match.
func (s *Store) list(resource string, match func(Object) bool) (objects []Object, version uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	k := s.kinds[resource]
	for _, key := range k.order {
		if o := k.objects[key]; match(o) {
			objects = append(objects, o)
		}
	}
	return objects, s.version
}

// since returns the events of a resource after a version, and a channel that is closed when there
// are more.
func (s *Store) since(resource string, version uint64) (events []event, more <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.kinds[resource].events
	first := len(all)
	for first > 0 && all[first-1].version > version {
		first--
	}
	return all[first:], s.changed
}

// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"context"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// allocate decides on the Services that changed, on those that were refused before, and on those
// that other agents have changed. It adds to affected the Services whose slices must be made again.
func (s *state) allocate(ctx context.Context, changed, affected keySet) {
	var gone, wanting []string
	decide := keySet{}
	for key := range changed {
		if key.kind == kindService {
			decide.add(key)
		}
	}
	for key := range s.waiting {
		decide.add(key)
	}
	for _, key := range decide.sorted() {
		if s.index.inForce[key] != nil {
			wanting = append(wanting, key.qualifiedName())
			continue
		}
		gone = append(gone, key.qualifiedName())
		delete(s.waiting, key)
		s.problems.set("allocation for "+key.String(), nil)
		s.serve(key, nil, affected)
	}
	out := s.allocator.allocate(ctx, gone, wanting, s)
	s.problems.set(ownerAllocation, out.problems)
	s.problems.set(ownerAddresses, s.addressProblems(out.plan))
	s.addresses = out.addresses
	for _, name := range out.decided {
		s.decided(serviceKey(name), out, affected)
	}
}

// decided puts a decision in force. A refused Service stays as it was, unless another agent has
// given its addresses or ports to another Service.
func (s *state) decided(key objectKey, out outcome, affected keySet) {
	name := key.qualifiedName()
	had := s.allocator.table.entries[name]
	errs := out.refused[name]
	s.problems.set("allocation for "+key.String(), s.index.inForce[key].faults(errs))
	if len(errs) == 0 {
		delete(s.waiting, key)
		s.serve(key, had.complete(s.wanted(name)), affected)
		return
	}
	s.waiting.add(key)
	if running := s.services.objects[key]; running != nil && !had.covers(running) {
		s.serve(key, nil, affected)
	}
}

// serve puts a Service in force, or out of it.
func (s *state) serve(key objectKey, service *v1.Service, affected keySet) {
	s.services.set(key, service)
	s.matcher.setService(key, service)
	affected.add(key)
}

// wanted implements roster.
func (s *state) wanted(name string) *v1.Service {
	return objectOf[v1.Service](s.index.inForce[serviceKey(name)])
}

// unknown implements roster.
func (s *state) unknown(name string) bool {
	return len(s.index.defined[serviceKey(name)]) == 0 && !s.tree.unsure()
}

func serviceKey(name string) objectKey {
	namespace, name, _ := strings.Cut(name, "/")
	return objectKey{kindService, namespace, name}
}

// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// Brake holds back mass deletions. When many Services are gone at one look, the directory is
// probably an empty mount point or a truncated copy. These Services, and everything else that is
// gone at the same look, stay in force until they are defined again, another Service wants what
// they have, or Release is called.
type Brake struct {
	// Fraction of the Services that may go at one look; 1 lets all go.
	Fraction float64
}

// brakeMinimum is the number of Services that may always go: a fraction of a few means little.
const brakeMinimum = 10

// off reports whether the brake never holds anything.
func (b *Brake) off() bool { return b == nil || b.Fraction >= 1 }

// holds reports whether so many of all Services must not go at one look.
func (b *Brake) holds(gone, all int) bool {
	return !b.off() && gone > brakeMinimum && float64(gone) > b.Fraction*float64(all)
}

// restoreHeld takes over what an earlier process held back.
func (s *state) restoreHeld() keySet {
	if s.brake.off() {
		s.held.save() // that is: nothing
		return keySet{}
	}
	s.held.restore(func(path string, data []byte) contents { return s.tree.decode(path, data, contents{}) })
	return s.redefineHeld()
}

// redefineHeld updates the index with what is held, and lists the objects that this changes.
func (s *state) redefineHeld() keySet { return s.settle(s.replace(s.held.change())) }

// hold brings back the touched objects that are gone, if they are too many, and lets go of objects
// that are defined again.
func (s *state) hold(touched keySet) {
	changed := false
	for key := range touched {
		if s.held.has(key) && s.index.definedBeside(key, s.held.root) {
			s.held.drop(key)
			changed = true
		}
	}
	gone, services := s.gone(touched)
	if services > brakeMinimum && s.brake.holds(services, s.liveServices()) {
		for _, key := range gone {
			s.held.put(s.index.inForce[key])
		}
		changed = true
	}
	if changed {
		maps.Copy(touched, s.replace(s.held.change()))
		s.held.save()
	}
}

// gone lists the objects that were in force and are not defined any more, and counts the Services
// among them.
func (s *state) gone(touched keySet) (keys []objectKey, services int) {
	for key := range touched {
		if s.index.inForce[key] == nil || len(s.index.defined[key]) > 0 {
			continue
		}
		keys = append(keys, key)
		if key.kind == kindService {
			services++
		}
	}
	return keys, services
}

// liveServices counts the Services that were in force before this look, but for those held.
func (s *state) liveServices() int {
	count := 0
	for key := range s.index.inForce {
		if key.kind == kindService && !s.held.has(key) {
			count++
		}
	}
	return count
}

// giveWay lets go of the held Services that have an address or a port which another Service wants,
// and lists the objects that this changes.
func (s *state) giveWay() keySet {
	if len(s.held.documents) == 0 {
		return keySet{}
	}
	wanted := map[claim]bool{}
	for key, d := range s.index.inForce {
		if key.kind == kindService && !s.held.has(key) {
			for _, c := range asked(objectOf[v1.Service](d)) {
				wanted[c] = true
			}
		}
	}
	var leaving []objectKey
	for key, d := range s.held.documents {
		if key.kind != kindService {
			continue
		}
		has := append(s.allocator.table.entries[key.qualifiedName()].claims(), asked(objectOf[v1.Service](&d))...)
		if slices.ContainsFunc(has, func(c claim) bool { return wanted[c] }) {
			leaving = append(leaving, key)
		}
	}
	if len(leaving) == 0 {
		return keySet{}
	}
	s.held.drop(leaving...)
	s.held.save()
	return s.redefineHeld()
}

// letGo drops what is held after a release, and lists the objects that this changes.
func (s *state) letGo() keySet {
	if !s.held.released() {
		return keySet{}
	}
	s.log.WithField("services", len(s.held.services())).Info("the deletion brake has released what it held")
	clear(s.held.documents)
	s.held.save()
	return s.redefineHeld()
}

// asked lists what a manifest itself asks for: cluster IPs, node ports, and external addresses with
// their ports.
func asked(s *v1.Service) []claim {
	var all []claim
	r := &request{service: s}
	r.fillSlots(ranges{}, entry{})
	for _, slot := range r.slots {
		if slot.want != (claim{}) {
			all = append(all, slot.want)
		}
	}
	external := slices.Clone(s.Spec.ExternalIPs)
	for _, i := range s.Status.LoadBalancer.Ingress {
		external = append(external, i.IP)
	}
	for _, ip := range external {
		a, ok := parseAddr(ip)
		for _, p := range s.Spec.Ports {
			if ok {
				all = append(all, claim{addr: a, protocol: p.Protocol, port: p.Port})
			}
		}
	}
	return all
}

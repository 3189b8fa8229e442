// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
)

// Set is all that documents say of pools and of announcements. It is not modified once made.
type Set struct {
	// Pools are in the order of their age, then of kinds and names.
	Pools []*Pool
	// adverts are of the L2Advertisements and CiliumL2AnnouncementPolicies without faults, in the order of names.
	adverts []*Advert
	// Problems are what is wrong with the documents.
	Problems []Problem
}

// NewSet judges documents, in any order.
func NewSet(documents []Document) *Set {
	s := &Set{}
	documents = slices.Clone(documents)
	slices.SortFunc(documents, func(a, b Document) int { return compareRefs(a.Ref(), b.Ref()) })
	for _, d := range documents {
		errs := d.Validate()
		for _, err := range errs {
			s.Problems = append(s.Problems, Problem{Object: d.Ref(), Field: err.Field, Message: err.ErrorBody()})
		}
		switch d := d.(type) {
		case *IPAddressPool:
			s.Pools = append(s.Pools, d.pool())
		case *CiliumPool:
			s.Pools = append(s.Pools, d.pool())
		case *L2Advertisement:
			if len(errs) == 0 {
				s.adverts = append(s.adverts, d.advert())
			}
		case *CiliumL2Announcement:
			if len(errs) == 0 {
				s.adverts = append(s.adverts, d.advert())
			}
		}
	}
	slices.SortStableFunc(s.Pools, func(a, b *Pool) int { return a.created.Compare(b.created) })
	s.findConflicts()
	return s
}

func compareRefs(a, b Ref) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// findConflicts has the older of two pools that overlap give, and the other not: what one address means must
// not depend on which of them is asked.
func (s *Set) findConflicts() {
	for i, p := range s.Pools {
		for _, earlier := range s.Pools[:i] {
			if earlier.conflict == nil {
				s.compare(p, earlier)
			}
		}
		s.compare(p, p)
	}
}

func (s *Set) compare(p, earlier *Pool) {
	for i, r := range p.ranges {
		others := earlier.ranges
		if earlier == p {
			others = p.ranges[:i]
		}
		for _, other := range others {
			if p.conflict == nil && r.overlaps(other) {
				p.conflict = earlier
				message := fmt.Sprintf("%s overlaps %s of %s (%s): nothing more is allocated from this pool", r, other, earlier.Ref, other.field)
				s.Problems = append(s.Problems, Problem{Object: p.Ref, Field: r.field, Message: message})
			}
		}
	}
}

// Find is the pool that an address is of; nil: none. Of pools that overlap it is the one that gives.
func (s *Set) Find(a netip.Addr) *Pool {
	var found *Pool
	for _, p := range s.Pools {
		if p.has(a) && (found == nil || found.conflict != nil && p.conflict == nil) {
			found = p
		}
	}
	return found
}

// SelectsNamespaces reports whether the labels of namespaces matter to any pool.
func (s *Set) SelectsNamespaces() bool {
	return slices.ContainsFunc(s.Pools, (*Pool).SelectsNamespaces)
}

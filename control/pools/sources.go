// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// source is where the addresses of one Service come from together: one pool of MetalLB's, or all of Cilium's.
type source []*Pool

// giveAny completes what a Service has: an address of each family from a source.
func (p *planner) giveAny(s *Service, r request) {
	families := s.families()
	held := slices.DeleteFunc(slices.Clone(s.Has), func(h Held) bool { return !slices.Contains(families, familyOf(h.Addr)) })
	if len(held) != len(s.Has) {
		p.replace(s, held) // the Service has given up a family
	}
	if r.pool != "" && slices.ContainsFunc(held, func(h Held) bool { return !isFrom(h, r.pool) }) {
		p.move(s, r, families)
		return
	}
	missing := slices.DeleteFunc(slices.Clone(families), func(f v1.IPFamily) bool {
		return slices.ContainsFunc(held, func(h Held) bool { return familyOf(h.Addr) == f })
	})
	if len(missing) == 0 {
		return
	}
	if len(held) > 0 {
		p.complete(s, missing)
		return
	}
	given, why := p.allocate(s, r, families)
	if len(given) == 0 {
		if why != nil {
			p.refuse(s, why.field, why.message)
		}
		return
	}
	p.replace(s, given)
}

func isFrom(h Held, pool string) bool { return h.From.Kind == KindIPAddressPool && h.From.Name == pool }

// move takes a Service to the pool that it asks for, or leaves it as it is.
func (p *planner) move(s *Service, r request, families []v1.IPFamily) {
	given, why := p.allocate(s, r, families)
	if len(given) == 0 {
		p.refuse(s, why.field, why.message)
		return
	}
	p.replace(s, given)
}

// complete adds the addresses of families that a Service has none of, from where it has the other one. A Service that
// only prefers both goes without.
func (p *planner) complete(s *Service, missing []v1.IPFamily) {
	var from source
	for _, candidate := range p.sources(s, request{pool: s.poolName()}) {
		if slices.ContainsFunc(candidate, func(pool *Pool) bool { return pool.has(s.Has[0].Addr) }) {
			from = candidate
		}
	}
	given := p.offer(s, from, missing)
	if len(given) == len(missing) {
		p.replace(s, slices.Concat(s.Has, given))
		return
	}
	if s.policy() == v1.IPFamilyPolicyRequireDualStack {
		p.refuse(s, "spec.ipFamilyPolicy", fmt.Sprintf("RequireDualStack, and no %s address is free where %s is from, %s", missing[0], s.Has[0].Addr, s.Has[0].From))
	}
}

// poolName is MetalLB's pool that the Service has an address of.
func (s *Service) poolName() string {
	if from := s.Has[0].From; from.Kind == KindIPAddressPool {
		return from.Name
	}
	return ""
}

// allocate finds addresses of all families. With none it says why, unless there is no pool at all.
func (p *planner) allocate(s *Service, r request, families []v1.IPFamily) ([]Held, *fault) {
	for _, rank := range p.ranks(s, r) {
		if given := p.best(s, rank, families); len(given) > 0 {
			return given, nil
		}
	}
	return nil, p.explain(s, r, families)
}

// best is the first source with addresses of all families. Where the Service only prefers them all, it is otherwise
// the first with an address of its first family, and then of its second.
func (p *planner) best(s *Service, rank []source, families []v1.IPFamily) []Held {
	offers := make([][]Held, len(rank))
	for i, from := range rank {
		if offers[i] = p.offer(s, from, families); len(offers[i]) == len(families) {
			return offers[i]
		}
	}
	if s.policy() != v1.IPFamilyPolicyPreferDualStack {
		return nil
	}
	for _, f := range families {
		for _, offer := range offers {
			if slices.ContainsFunc(offer, func(h Held) bool { return familyOf(h.Addr) == f }) {
				return offer
			}
		}
	}
	return nil
}

// offer finds one address of each family in a source: a shared one, or else a free one.
func (p *planner) offer(s *Service, from source, families []v1.IPFamily) (given []Held) {
	for _, f := range families {
		if h, ok := p.find(s, from, f); ok {
			given = append(given, h)
		}
	}
	return given
}

func (p *planner) find(s *Service, from source, f v1.IPFamily) (Held, bool) {
	for _, search := range []func(*Service, *Pool, v1.IPFamily) (netip.Addr, bool){p.shared, p.free} {
		for _, pool := range from {
			if a, ok := search(s, pool, f); ok {
				return Held{a, pool.Ref}, true
			}
		}
	}
	return Held{}, false
}

// ranks are the sources of a Service: those of a rank are used up before any of the next one is asked. As in MetalLB
// pools that are for some Services go first.
func (p *planner) ranks(s *Service, r request) [][]source {
	var ranks [3][]source
	var cilium source
	for _, pool := range p.candidates(s, r) {
		switch {
		case !pool.whole:
			cilium = append(cilium, pool)
		case pool.pinned:
			ranks[0] = append(ranks[0], source{pool})
		default:
			ranks[1] = append(ranks[1], source{pool})
		}
	}
	if cilium != nil {
		ranks[2] = []source{cilium}
	}
	return ranks[:]
}

func (p *planner) sources(s *Service, r request) []source { return slices.Concat(p.ranks(s, r)...) }

// candidates are the pools that give to a Service, by priority and name.
func (p *planner) candidates(s *Service, r request) []*Pool {
	var found []*Pool
	for _, pool := range p.Set.Pools {
		if p.unfit(s, pool, r) == "" {
			found = append(found, pool)
		}
	}
	slices.SortStableFunc(found, func(a, b *Pool) int {
		return cmp.Or(cmp.Compare(uint(a.priority-1), uint(b.priority-1)), compareRefs(a.Ref, b.Ref)) // 0 is last
	})
	return found
}

// unfit says why a pool is no candidate; empty: it is one.
func (p *planner) unfit(s *Service, pool *Pool, r request) string {
	if r.pool != "" && !pool.is(r.pool) {
		return "is not asked for"
	}
	if why := pool.idle(); why != "" {
		return why
	}
	if !pool.auto && r.pool == "" {
		return "gives only to who asks for it (spec.autoAssign)"
	}
	return pool.refuses(s.Service, p.Namespaces)
}

// explain says why no pool gives a Service what it needs; nil: there are no pools.
func (p *planner) explain(s *Service, r request, families []v1.IPFamily) *fault {
	if r.pool != "" && !slices.ContainsFunc(p.Set.Pools, func(pool *Pool) bool { return pool.is(r.pool) }) {
		return &fault{r.poolField, fmt.Sprintf("there is no IPAddressPool %s", r.pool)}
	}
	var reasons []string
	for _, pool := range p.Set.Pools {
		if r.pool != "" && !pool.is(r.pool) {
			continue
		}
		why := p.unfit(s, pool, r)
		if why == "" {
			why = p.lacks(pool, families)
		}
		reasons = append(reasons, fmt.Sprintf("%s %s", pool.Ref, why))
	}
	if len(reasons) == 0 {
		return nil
	}
	rest := len(reasons) - listed
	reasons = reasons[:min(listed, len(reasons))]
	return &fault{cmp.Or(r.poolField, "spec.type"), "no pool gives it an address: " + strings.Join(reasons, "; ") + more(rest)}
}

// lacks says what a pool that is a candidate has not got.
func (p *planner) lacks(pool *Pool, families []v1.IPFamily) string {
	for _, f := range families {
		if !pool.hasFamily(f) {
			return fmt.Sprintf("has no %s addresses (%s)", f, pool.addressField)
		}
	}
	return fmt.Sprintf("is exhausted (%s)", pool.addressField)
}

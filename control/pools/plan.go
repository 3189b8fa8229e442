// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Input is what a plan is made from.
type Input struct {
	Set      *Set
	Services []Service
	// Namespaces are the labels of namespaces, by name.
	Namespaces map[string]labels.Set
	Classes    Classes
	// Reserved are addresses of Services that are not among these.
	Reserved []netip.Addr
}

// Plan is the wanted state of the Services.
type Plan struct {
	// Changes are the Services whose addresses, or the record of them, are to change, in the order of names.
	Changes []Change
	// Addresses are all that Services have of pools once the changes are made, in their order.
	Addresses []Address
	// Problems are those of the documents, and those of Services.
	Problems []Problem
}

// Change replaces the addresses of a Service.
type Change struct {
	types.NamespacedName
	Addresses []Held // none: the Service gives up all
	// Adopted: it had these addresses before, and only the record is new.
	Adopted bool
}

// Address is one address of a pool that Services have.
type Address struct {
	Addr     netip.Addr
	Pool     Ref
	Gone     bool // the pool does not have it any more
	Services []types.NamespacedName
}

// Reasons of events on Services.
const (
	ReasonPending = "AddressPending" // it has not got what it asks for
	ReasonKept    = "AddressKept"    // it has what it would not get now
)

// planner is the work on one plan.
type planner struct {
	Input
	holders  map[netip.Addr][]*Service
	groups   map[string]map[netip.Addr]bool // addresses of Services with a sharing key
	reserved map[netip.Addr]bool
	full     map[fullKey]bool
	problems []Problem
}

// Make plans. The same input gives the same plan, in whichever order it lists documents and Services; and a plan of what
// has been carried out changes nothing.
func Make(in Input) Plan {
	p := &planner{
		Input: in, holders: map[netip.Addr][]*Service{}, groups: map[string]map[netip.Addr]bool{},
		reserved: map[netip.Addr]bool{}, full: map[fullKey]bool{}, problems: slices.Clone(in.Set.Problems),
	}
	for _, a := range in.Reserved {
		p.reserved[a] = true
	}
	all := make([]*Service, len(in.Services))
	for i := range in.Services {
		all[i] = &Service{in.Services[i].Service, slices.Clone(in.Services[i].Has), in.Services[i].Foreign}
	}
	slices.SortFunc(all, compareServices)
	for _, s := range all {
		if isLoadBalancer(s) {
			p.take(s, s.Has...)
		}
	}
	var plan Plan
	for _, s := range all {
		before := slices.Clone(s.Has)
		p.decide(s)
		if !slices.Equal(before, s.Has) {
			plan.Changes = append(plan.Changes, Change{NamespacedName: s.key(), Addresses: s.Has, Adopted: sameHeld(before, s.Has)})
		}
	}
	slices.SortFunc(plan.Changes, func(a, b Change) int { return compareNames(a.NamespacedName, b.NamespacedName) })
	plan.Addresses = p.addresses(all)
	plan.Problems = p.problems
	return plan
}

func compareNames(a, b types.NamespacedName) int {
	return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

func sameHeld(a, b []Held) bool {
	return slices.EqualFunc(a, b, func(x, y Held) bool { return x.Addr == y.Addr })
}

func isLoadBalancer(s *Service) bool { return s.Spec.Type == v1.ServiceTypeLoadBalancer }

// take notes that a Service has addresses.
func (p *planner) take(s *Service, held ...Held) {
	for _, h := range held {
		p.holders[h.Addr] = append(p.holders[h.Addr], s)
		for _, key := range sharingKeys(s.Service) {
			if p.groups[key] == nil {
				p.groups[key] = map[netip.Addr]bool{}
			}
			p.groups[key][h.Addr] = true
		}
	}
}

// replace gives a Service other addresses than it has.
func (p *planner) replace(s *Service, held []Held) {
	for _, h := range s.Has {
		p.holders[h.Addr] = slices.DeleteFunc(p.holders[h.Addr], func(o *Service) bool { return o == s })
		clear(p.full)
	}
	s.Has = held
	p.take(s, held...)
}

// decide works out what a Service gets.
func (p *planner) decide(s *Service) {
	if !p.isOurs(s) {
		return
	}
	if !isLoadBalancer(s) {
		s.Has = nil // they count as free already
		return
	}
	for i := range s.Has {
		if pool := p.Set.Find(s.Has[i].Addr); pool != nil {
			s.Has[i].From = pool.Ref
		}
	}
	r, f := requestOf(s)
	switch {
	case f != nil:
		p.refuse(s, f.field, f.message)
	case len(r.addresses) > 0:
		p.giveAsked(s, r)
	default:
		p.giveAny(s, r)
	}
	p.reportKept(s)
}

// isOurs reports whether the addresses of a Service are ours to decide on. Those that no pool has or is recorded to have
// given are another controller's, and so is the Service then.
func (p *planner) isOurs(s *Service) bool {
	if s.Foreign || isLoadBalancer(s) && !p.Classes.Have(s.Service) {
		return false
	}
	return !slices.ContainsFunc(s.Has, func(h Held) bool { return h.From == (Ref{}) && p.Set.Find(h.Addr) == nil })
}

func (p *planner) refuse(s *Service, field, message string) {
	if len(s.Has) > 0 {
		message += fmt.Sprintf(" (it keeps %s)", addressList(s.Has))
	}
	p.report(s, ReasonPending, field, message)
}

func (p *planner) report(s *Service, reason, field, message string) {
	p.problems = append(p.problems, Problem{Object: s.ref(), Field: field, Reason: reason, Message: message})
}

func addressList(held []Held) string {
	var list []string
	for _, h := range held {
		list = append(list, h.Addr.String())
	}
	return strings.Join(list, ", ")
}

// giveAsked gives all addresses that a Service asks for, or leaves it as it is.
func (p *planner) giveAsked(s *Service, r request) {
	var held []Held
	for _, a := range r.addresses {
		if i := slices.IndexFunc(s.Has, func(h Held) bool { return h.Addr == a }); i >= 0 {
			held = append(held, s.Has[i])
			continue
		}
		pool, why := p.grant(s, a, r)
		if why != "" {
			p.refuse(s, r.field, fmt.Sprintf("%s %s", a, why))
			return
		}
		held = append(held, Held{a, pool.Ref})
	}
	if len(held) != len(s.Has) || slices.ContainsFunc(held, func(h Held) bool { return !s.has(h.Addr) }) {
		p.replace(s, held)
	}
}

// grant finds the pool that gives a Service an address, or says why none does.
func (p *planner) grant(s *Service, a netip.Addr, r request) (pool *Pool, why string) {
	pool = p.Set.Find(a)
	if pool == nil {
		return nil, "is in no pool" + p.listPools()
	}
	if why = pool.idle(); why == "" {
		why = pool.refuses(s.Service, p.Namespaces)
	}
	if why == "" {
		why = pool.withholds(a)
	}
	switch {
	case why != "":
		return nil, fmt.Sprintf("is not given: %s %s", pool.Ref, why)
	case r.pool != "" && !pool.is(r.pool):
		return nil, fmt.Sprintf("is of %s, and %s asks for %s", pool.Ref, r.poolField, r.pool)
	case p.reserved[a]:
		return nil, "is in use by a Service that is not known here"
	}
	return pool, p.objects(s, a)
}

// is reports whether the pool is the one of that name, as MetalLB's annotation gives it.
func (p *Pool) is(name string) bool { return p.Kind == KindIPAddressPool && p.Name == name }

// listed is how many pools are named to people who look for one.
const listed = 5

func (p *planner) listPools() string {
	var names []string
	for _, pool := range p.Set.Pools[:min(listed, len(p.Set.Pools))] {
		names = append(names, fmt.Sprintf("%s (%s)", pool.Ref, pool.addressField))
	}
	if len(names) == 0 {
		return ""
	}
	return ": there are " + strings.Join(names, ", ") + more(len(p.Set.Pools)-len(names))
}

func more(n int) string {
	if n <= 0 {
		return ""
	}
	return fmt.Sprintf(" and %d more", n)
}

// reportKept says what a Service has that it would not get now.
func (p *planner) reportKept(s *Service) {
	for _, h := range s.Has {
		pool := p.Set.Find(h.Addr)
		if pool == nil {
			p.report(s, ReasonKept, "status.loadBalancer", fmt.Sprintf("%s is kept though no pool has it any more: it is from %s", h.Addr, h.From))
			continue
		}
		if why := pool.refuses(s.Service, p.Namespaces); why != "" {
			p.report(s, ReasonKept, "status.loadBalancer", fmt.Sprintf("%s is kept though %s %s", h.Addr, pool.Ref, why))
		}
		if why := p.objects(s, h.Addr); why != "" {
			p.report(s, ReasonKept, "status.loadBalancer", fmt.Sprintf("%s is kept though it %s", h.Addr, why))
		}
	}
}

// addresses lists what Services have of pools.
func (p *planner) addresses(all []*Service) []Address {
	found := map[netip.Addr]*Address{}
	for _, s := range all {
		for _, h := range s.Has {
			pool := p.Set.Find(h.Addr)
			if !isLoadBalancer(s) || pool == nil && (h.From == (Ref{}) || !p.isOurs(s)) {
				continue
			}
			a := found[h.Addr]
			if a == nil {
				a = &Address{Addr: h.Addr, Pool: h.From, Gone: pool == nil}
				found[h.Addr] = a
			}
			if pool != nil {
				a.Pool = pool.Ref
			}
			a.Services = append(a.Services, s.key())
		}
	}
	var list []Address
	for _, addr := range slices.SortedFunc(maps.Keys(found), netip.Addr.Compare) {
		slices.SortFunc(found[addr].Services, compareNames)
		list = append(list, *found[addr])
	}
	return list
}

// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// world is a random cluster: documents, Services, and what they have.
type world struct {
	*rand.Rand
	docs     []Document
	services []Service
	serial   int
}

func (w *world) pick(of ...string) string { return of[w.IntN(len(of))] }

// step changes something: a pool or a Service appears, changes or goes.
func (w *world) step(t *testing.T) {
	switch n := w.IntN(10); {
	case n == 0 && len(w.docs) > 0:
		w.docs = slices.Delete(w.docs, 0, 1)
	case n <= 1:
		w.docs = append(w.docs, documents(t, w.pool())...)
	case n == 2 && len(w.services) > 0:
		i := w.IntN(len(w.services))
		w.services = slices.Delete(w.services, i, i+1)
	case n <= 5 && len(w.services) > 0:
		s := &w.services[w.IntN(len(w.services))]
		next := w.service(s.Name)
		next.Namespace, next.CreationTimestamp, next.Has, next.Foreign = s.Namespace, s.CreationTimestamp, s.Has, s.Foreign
		*s = next
	default:
		w.serial++
		w.services = append(w.services, w.service(fmt.Sprint("s", w.serial)))
	}
}

func (w *world) pool() string {
	w.serial++
	name := fmt.Sprint("p", w.serial)
	net := w.IntN(6)
	if w.IntN(2) == 0 {
		return cilium(name, fmt.Sprintf("{cidr: 192.0.2.%d/30}, {start: '2001:db8::%d', stop: '2001:db8::%d'}", net*4, net*2, net*2+1),
			w.pick("disabled: true", "allowFirstLastIPs: 'No'", "serviceSelector: {matchLabels: {colour: blue}}", "disabled: false"))
	}
	return metallb(name, fmt.Sprintf("192.0.2.%d/30, '2001:db8::%d/127'", net*4, net*2),
		w.pick("autoAssign: false", "avoidBuggyIPs: true", "serviceAllocation: {priority: 5}", "serviceAllocation: {namespaces: [blue]}", "autoAssign: true"))
}

func (w *world) service(name string) Service {
	s := service(name, in(w.pick("default", "blue")), created(w.IntN(5)), port(int32(80+w.IntN(3)), v1.ProtocolTCP))
	for range w.IntN(4) {
		[]change{
			annotated(shareKey, w.pick("k", "l")), annotated(shareC, w.pick("k", "l")), annotated(acrossC, "*"),
			annotated(ipsC, fmt.Sprintf("192.0.2.%d", w.IntN(30))), annotated(poolM, fmt.Sprint("p", w.IntN(9))),
			asks(fmt.Sprintf("192.0.2.%d", w.IntN(30))), local(w.pick("x", "y")), labelled("colour", "blue"),
			families(v1.IPFamilyPolicyPreferDualStack, v4, v6), families(v1.IPFamilyPolicyRequireDualStack, v6, v4),
			typed(v1.ServiceTypeClusterIP), class("other.example"),
		}[w.IntN(12)](&s)
	}
	if s.Spec.Type == v1.ServiceTypeLoadBalancer && w.IntN(8) == 0 { // another controller gave it an address before
		s.Has = append(s.Has, Held{Addr: netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", w.IntN(40)))})
	}
	return s
}

// conflicts are the pairs that have one address, and may not.
func conflicts(services []Service) map[string]bool {
	found := map[string]bool{}
	for i := range services {
		for j := range services[:i] {
			a, b := &services[i], &services[j]
			if !isLoadBalancer(a) || !isLoadBalancer(b) || unshareable(a.Service, b.Service) == "" {
				continue
			}
			for _, h := range a.Has {
				if b.has(h.Addr) {
					found[fmt.Sprint(a.ref(), b.ref(), h.Addr)] = true
				}
			}
		}
	}
	return found
}

// mayGiveUp reports whether the Service itself is the reason that it loses an address.
func mayGiveUp(s *Service, h Held) bool {
	r, f := requestOf(s)
	switch {
	case !isLoadBalancer(s):
		return true
	case f == nil && len(r.addresses) > 0: // all that it asks for, or what it has
		return !slices.Contains(r.addresses, h.Addr) && !slices.ContainsFunc(r.addresses, func(a netip.Addr) bool { return !s.has(a) })
	case f == nil && r.pool != "" && !isFrom(h, r.pool) && len(s.Has) > 0:
		return !slices.ContainsFunc(s.Has, func(h Held) bool { return !isFrom(h, r.pool) })
	}
	return !slices.Contains(s.families(), familyOf(h.Addr))
}

// checkWorld makes a plan and holds it to what must hold for all of them.
func checkWorld(t *testing.T, w *world) {
	t.Helper()
	docs := slices.Clone(w.docs)
	set := NewSet(docs)
	before := slices.Clone(w.services)
	conflicting := conflicts(before)
	p := Make(Input{Set: set, Services: w.services})

	w.Shuffle(len(docs), func(i, j int) { docs[i], docs[j] = docs[j], docs[i] })
	shuffled := slices.Clone(w.services)
	w.Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	if other := Make(Input{Set: NewSet(docs), Services: shuffled}); !reflect.DeepEqual(p, other) {
		t.Fatalf("another order, another plan:\n%+v\n%+v", p, other)
	}

	carryOut(w.services, p)
	for i := range w.services {
		now := &w.services[i]
		for _, h := range before[i].Has {
			if pool := set.Find(h.Addr); pool != nil {
				h.From = pool.Ref
			}
			if !now.has(h.Addr) && !mayGiveUp(now, h) {
				t.Fatalf("%s loses %s, from %s", now.ref(), h.Addr, h.From)
			}
		}
		for _, h := range now.Has {
			given := !slices.ContainsFunc(before[i].Has, func(b Held) bool { return b.Addr == h.Addr })
			if pool := set.Find(h.Addr); given && (pool == nil || pool.idle() != "" || pool.refuses(now.Service, nil) != "" || pool.withholds(h.Addr) != "") {
				t.Fatalf("%s gets %s of %v", now.ref(), h.Addr, pool)
			}
		}
	}
	for c := range conflicts(w.services) {
		if !conflicting[c] {
			t.Fatalf("new conflict: %s", c)
		}
	}
	if again := Make(Input{Set: set, Services: w.services}); len(again.Changes) > 0 {
		t.Fatalf("the second plan changes %+v", again.Changes)
	}
}

// TestRandomPlans follows random clusters through their changes: an address never has two owners who may not share
// it, none is taken away, the order of things decides nothing, and a plan that is carried out leaves nothing to do.
func TestRandomPlans(t *testing.T) {
	for seed := range uint64(40) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 0))}
		for range 40 {
			w.step(t)
			checkWorld(t, w)
		}
	}
}

func FuzzPlan(f *testing.F) {
	f.Add(uint64(0), uint8(20))
	f.Fuzz(func(t *testing.T, seed uint64, steps uint8) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 1))}
		for range steps {
			w.step(t)
			checkWorld(t, w)
		}
	})
}

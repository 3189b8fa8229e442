// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// allocation gives Services the cluster IPs and ports that they request. Its result depends only on the table
// and the requests.
type allocation struct {
	*table
	ranges ranges
	// stray reports whether an entry belongs to no Service that is known here.
	stray func(name string) bool
}

// resolve gives each request its entry in the table, or refuses it. A refused request keeps the
// entry that it had, so what others were to take from that entry is not free. Hence the rounds.
func (a *allocation) resolve(requests []*request) (refused map[string]field.ErrorList) {
	refused = map[string]field.ErrorList{}
	active := slices.SortedFunc(slices.Values(requests), func(x, y *request) int { return cmp.Compare(x.name, y.name) })
	for {
		before := map[string]entry{}
		for _, r := range active {
			before[r.name] = a.entries[r.name]
			a.drop(r.name)
		}
		t := &round{allocation: a, taken: map[claim]string{}}
		errs := t.fill(active, before)
		for _, r := range active {
			if len(errs) == 0 {
				e := r.entry()
				e.LoadBalancerIPs = before[r.name].LoadBalancerIPs
				a.put(r.name, e)
			} else {
				a.put(r.name, before[r.name])
			}
		}
		if len(errs) == 0 {
			return refused
		}
		for name, list := range errs {
			refused[name] = list
		}
		active = slices.DeleteFunc(active, func(r *request) bool { return len(errs[r.name]) > 0 })
	}
}

// round is one attempt to fill all slots. Its result counts only if all succeed.
type round struct {
	*allocation
	taken map[claim]string
}

// fill fills the slots in this order: what Services have already, so that no Service in force loses
// anything; what manifests ask for; and what the allocator chooses itself.
func (t *round) fill(active []*request, before map[string]entry) map[string]field.ErrorList {
	errs := map[string]field.ErrorList{}
	for _, r := range active {
		r.fillSlots(t.ranges, before[r.name])
		t.keep(r, before[r.name].claims())
	}
	for _, step := range []func(*request) field.ErrorList{t.grant, t.choose} {
		for _, r := range active {
			if len(errs[r.name]) > 0 {
				continue
			}
			if list := step(r); len(list) > 0 {
				errs[r.name] = list
			}
		}
	}
	return errs
}

// keep looks at what the manifest gives first, since a Service may move a node port between its own ports.
func (t *round) keep(r *request, had []claim) {
	for _, s := range r.slots {
		if slices.Contains(had, s.want) {
			t.take(r, s, s.want)
		}
	}
	for _, s := range r.slots {
		if s.want == (claim{}) && slices.Contains(had, s.prior) {
			t.take(r, s, s.prior)
		}
	}
}

func (t *round) grant(r *request) field.ErrorList {
	var errs field.ErrorList
	for _, s := range r.slots {
		if s.want == (claim{}) || s.got == s.want {
			continue
		}
		if holder := t.holder(s.want); t.stray(holder) {
			t.drop(holder) // a Service that is unknown here gives way to one that is known
		}
		if !t.take(r, s, s.want) {
			errs = append(errs, field.Invalid(s.path, s.want.value(),
				"is already allocated to Service "+t.holder(s.want)))
		}
	}
	return errs
}

func (t *round) choose(r *request) field.ErrorList {
	var errs field.ErrorList
	for _, s := range r.slots {
		if s.got != (claim{}) {
			continue
		}
		if !t.take(r, s, s.prior) && !t.share(r, s) && !t.take(r, s, t.probe(s)) {
			errs = append(errs, field.Invalid(s.path, nil, fmt.Sprintf("nothing is left to allocate in %s", t.rangeOf(s))))
		}
	}
	return errs
}

// share gives a port the node port that the same port number has for another protocol, as the API
// server does: users expect DNS over TCP and UDP, for example, at one node port.
func (t *round) share(r *request, s *slot) bool {
	for _, other := range r.slots {
		if s.port != 0 && other.port == s.port && other.got.port != 0 && t.take(r, s, portClaim(s.protocol, other.got.port)) {
			return true
		}
	}
	return false
}

// probe finds a free address or port. A port must be free in all protocols, so that it belongs to one Service
// only.
func (t *round) probe(s *slot) claim {
	if s.family == "" {
		port, ok := choosePort(s.hashed, t.ranges.ports, func(port int32) bool {
			for p := range protocols {
				if t.holder(portClaim(p, port)) != "" {
					return false
				}
			}
			return true
		})
		if !ok {
			return claim{}
		}
		return portClaim(s.protocol, port)
	}
	for _, p := range t.ranges.of(s.family) {
		free := func(a netip.Addr) bool { return t.holder(addrClaim(a)) == "" && !slices.Contains(t.ranges.kept, a) }
		if addr, ok := chooseAddr(s.hashed, p, free); ok {
			return addrClaim(addr)
		}
	}
	return claim{}
}

func (t *round) rangeOf(s *slot) string {
	if s.family == "" {
		return t.ranges.ports.String()
	}
	return fmt.Sprint(t.ranges.of(s.family))
}

// holder returns the Service that has a claim, "" if there is none.
func (t *round) holder(c claim) string { return cmp.Or(t.taken[c], t.owners[c]) }

func (t *round) take(r *request, s *slot, c claim) bool {
	if c == (claim{}) || t.holder(c) != "" {
		return false
	}
	t.taken[c] = r.name
	s.got = c
	return true
}

// value returns the claim as a manifest would give it.
func (c claim) value() any {
	if c.addr.IsValid() {
		return c.addr.String()
	}
	return c.port
}

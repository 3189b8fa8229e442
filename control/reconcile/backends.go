// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// backend is one of a service's backends, as it is in the map. Address and port identify it within the
// service. They do not change while it has its id: affinity entries and counters refer to the id.
type backend struct {
	addr netip.Addr
	port uint16
	flags
	id uint32 // 0 in Reconciler.wanted: not allocated
}

// flags are the members of a backend that may change.
type flags uint8

const (
	isLocal   flags = 1 << iota // on this node
	inCluster                   // in plan.Service.Endpoints[plan.Cluster]
	inLocal                     // in plan.Service.Endpoints[plan.Local]
	isKept                      // in neither, but in plan.Service.Kept: its flows go on
	isStale                     // the element in the map differs; Apply writes it again

	serving = inCluster | inLocal
)

func (b backend) compare(other backend) int {
	return cmp.Or(b.addr.Compare(other.addr), cmp.Compare(b.port, other.port))
}

// find looks a backend up in a sorted list.
func find(sorted []backend, addr netip.Addr, port uint16) (at int, found bool) {
	return slices.BinarySearchFunc(sorted, backend{addr: addr, port: port}, backend.compare)
}

// element returns the map's element of a backend.
func (s *service) element(b backend) maps.Backend {
	return maps.Backend{
		Addr: b.addr, Port: b.port, Proto: s.name.Proto, Service: s.id,
		Local: b.flags&isLocal != 0, InCluster: b.flags&inCluster != 0, InLocal: b.flags&inLocal != 0, Kept: b.flags&isKept != 0,
	}
}

// flagsOf returns the flags of an element of the map.
func flagsOf(b maps.Backend) (f flags) {
	for flag, set := range map[flags]bool{isLocal: b.Local, inCluster: b.InCluster, inLocal: b.InLocal, isKept: b.Kept} {
		if set {
			f |= flag
		}
	}
	return f
}

// want sets r.wanted to the backends that a service is to have, sorted, and without ids.
func (r *Reconciler) want(want plan.Service) {
	r.wanted = r.wanted[:0]
	for set, member := range [...]flags{plan.Cluster: inCluster, plan.Local: inLocal} {
		for _, e := range want.Endpoints[set] {
			b := backend{addr: e.Addr, port: e.Port, flags: member}
			if e.Local {
				b.flags |= isLocal
			}
			r.wanted = append(r.wanted, b)
		}
	}
	slices.SortFunc(r.wanted, backend.compare)
	merged := r.wanted[:0]
	for _, b := range r.wanted {
		if last := len(merged) - 1; last >= 0 && merged[last].compare(b) == 0 {
			merged[last].flags |= b.flags
			continue
		}
		merged = append(merged, b)
	}
	r.wanted = merged
}

// putBackends writes the wanted backends that are new or changed.
func (r *Reconciler) putBackends(svc *service) error {
	added := 0
	for _, b := range r.wanted {
		at, known := find(svc.backends, b.addr, b.port)
		if !known {
			added++
			continue
		}
		have := &svc.backends[at]
		if have.flags == b.flags {
			continue
		}
		b.id = have.id
		if err := r.backends.Write(b.id, svc.element(b)); err != nil {
			return endpointError(b, err)
		}
		r.writes.Backends++
		*have = b
	}
	if added == 0 {
		return nil
	}
	return r.addBackends(svc, added)
}

// addBackends writes the wanted backends that are new. added is their number.
func (r *Reconciler) addBackends(svc *service, added int) error {
	old := svc.backends
	svc.backends = make([]backend, 0, len(old)+added)
	for _, b := range r.wanted {
		for len(old) > 0 && old[0].compare(b) < 0 {
			svc.backends, old = append(svc.backends, old[0]), old[1:]
		}
		if len(old) > 0 && old[0].compare(b) == 0 {
			continue // it is appended before the next one
		}
		id, err := r.backends.Add(svc.element(b), r.now())
		if err != nil {
			svc.backends = append(svc.backends, old...)
			return endpointError(b, err)
		}
		r.writes.Backends++
		b.id = id
		svc.backends = append(svc.backends, b)
	}
	svc.backends = append(svc.backends, old...)
	return nil
}

func endpointError(b backend, err error) error {
	return fmt.Errorf("endpoint %s: %w", netip.AddrPortFrom(b.addr, b.port), err)
}

// dropBackends removes the backends that are neither wanted nor in the blocks still in use. A
// backend whose endpoint still serves is kept without new flows.
func (r *Reconciler) dropBackends(svc *service, want plan.Service) error {
	var errs []error
	left := svc.backends[:0]
	for _, b := range svc.backends {
		if _, wanted := find(r.wanted, b.addr, b.port); wanted || svc.inBlock(b.id) {
			left = append(left, b)
			continue
		}
		stays := slices.ContainsFunc(want.Kept, func(e plan.Endpoint) bool { return e.Addr == b.addr && e.Port == b.port })
		if stays && b.flags&(isKept|isStale) == isKept {
			left = append(left, b)
			continue
		}
		r.writes.Backends++
		if stays {
			b.flags = b.flags&^(serving|isStale) | isKept
			left = append(left, b)
			errs = append(errs, r.backends.Write(b.id, svc.element(b)))
			continue
		}
		if svc.name.Proto == unix.IPPROTO_UDP {
			r.retired++
		}
		errs = append(errs, r.backends.Remove(b.id, svc.element(b), r.now()))
	}
	svc.backends = left
	return errors.Join(errs...)
}

// inBlock reports whether a published block leads to a backend.
func (s *service) inBlock(id uint32) bool {
	return slices.ContainsFunc(s.blocks, func(b block) bool { return slices.Contains(b.ids, id) })
}

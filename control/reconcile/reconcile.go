// SPDX-License-Identifier: Apache-2.0

// Package reconcile brings the maps to what the planner wants, one service at a time: the work
// is proportional to the change. Every change is published by replacing single elements of the
// services map, after all that they refer to has been written.
package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// endpointKey is what makes a backend the same backend, within one service.
type endpointKey struct {
	addr netip.Addr
	port uint16
}

// backendRef is a backend as it stands in the map.
type backendRef struct {
	id      uint32
	backend maps.Backend
}

// block is a block of slots with what is in it.
type block struct {
	maps.Block
	ids []uint32
}

// service is the state of one service port in the maps.
type service struct {
	id        uint32
	name      maps.Name
	backends  map[endpointKey]backendRef
	blocks    []block
	frontends map[maps.Frontend]maps.Service
	ranges    map[netip.Prefix]bool
	leaving   bool // about to be deleted: its frontends may be taken over
}

// Reconciler owns the contents of the maps that describe services. It is not safe for
// concurrent use.
type Reconciler struct {
	names      *maps.Names
	backends   *maps.Backends
	slots      *maps.Slots
	frontends  *maps.Services
	sources    *maps.Sources
	clusterIPs *clusterIPs

	services map[maps.Name]*service
	owners   map[maps.Frontend]*service
	local    map[netip.Prefix]bool // the cluster's own addresses, once they have been told
	writes   Writes
	retired  int
	now      func() time.Time
}

// Writes counts what the reconciler has written, so that tests and status can tell work from
// no work.
type Writes struct {
	Frontends, Backends, Blocks, Names, Ranges int
}

// Writes returns the counts since the start.
func (r *Reconciler) Writes() Writes { return r.writes }

// Retired counts the UDP backends that have stopped serving, since the start.
func (r *Reconciler) Retired() int { return r.retired }

// Services lists the names of the services in the maps.
func (r *Reconciler) Services() []maps.Name {
	out := make([]maps.Name, 0, len(r.services))
	for name := range r.services {
		out = append(out, name)
	}
	return out
}

// ErrTaken tells that another service holds a frontend. The rest of the service works.
var ErrTaken = errors.New("frontend is taken")

// Apply brings one service to its desired state. On an error the service is left as it was or
// as it should be, frontend by frontend; applying it again carries on.
func (r *Reconciler) Apply(want plan.Service) error {
	svc, err := r.service(want.Name)
	if err != nil {
		return err
	}
	if err := r.putBackends(svc, want); err != nil {
		return fmt.Errorf("service %s: %w", want.Name, err)
	}
	sets, err := r.putBlocks(svc, want)
	if err != nil {
		return fmt.Errorf("service %s: %w", want.Name, err)
	}
	if err := r.putRanges(svc, want); err != nil {
		return fmt.Errorf("service %s: %w", want.Name, err)
	}
	if err := errors.Join(r.putFrontends(svc, want, sets), r.dropUnused(svc, want), r.clusterIPs.sync()); err != nil {
		return fmt.Errorf("service %s: %w", want.Name, err)
	}
	return nil
}

// service finds or makes the state of a service.
func (r *Reconciler) service(name maps.Name) (*service, error) {
	if svc := r.services[name]; svc != nil {
		svc.leaving = false
		return svc, nil
	}
	id, err := r.names.IDs().Alloc(r.now())
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	if err := r.names.Put(id, name); err != nil {
		r.names.IDs().Free(id, r.now())
		return nil, err
	}
	r.writes.Names++
	svc := newService(id, name)
	r.services[name] = svc
	return svc, nil
}

func newService(id uint32, name maps.Name) *service {
	return &service{
		id:        id,
		name:      name,
		backends:  map[endpointKey]backendRef{},
		frontends: map[maps.Frontend]maps.Service{},
		ranges:    map[netip.Prefix]bool{},
	}
}

// putBackends writes the backends that are new or changed.
func (r *Reconciler) putBackends(svc *service, want plan.Service) error {
	var in [len(want.Endpoints)]map[endpointKey]bool
	for set, endpoints := range want.Endpoints {
		in[set] = map[endpointKey]bool{}
		for _, e := range endpoints {
			in[set][endpointKey{e.Addr, e.Port}] = true
		}
	}
	for _, e := range slices.Concat(want.Endpoints[:]...) {
		key := endpointKey{e.Addr, e.Port}
		backend := maps.Backend{
			Addr: e.Addr, Port: e.Port, Proto: svc.name.Proto, Service: svc.id, Local: e.Local,
			InCluster: in[plan.Cluster][key], InLocal: in[plan.Local][key],
		}
		if err := r.putBackend(svc, key, backend); err != nil {
			return fmt.Errorf("endpoint %s: %w", netip.AddrPortFrom(e.Addr, e.Port), err)
		}
	}
	return nil
}

func (r *Reconciler) putBackend(svc *service, key endpointKey, backend maps.Backend) error {
	ref, known := svc.backends[key]
	if known && ref.backend == backend {
		return nil
	}
	r.writes.Backends++
	if known {
		svc.backends[key] = backendRef{ref.id, backend}
		return r.backends.Write(ref.id, backend)
	}
	id, err := r.backends.Add(backend, r.now())
	if err != nil {
		return err
	}
	svc.backends[key] = backendRef{id, backend}
	return nil
}

// putBlocks finds or publishes the block of each set.
func (r *Reconciler) putBlocks(svc *service, want plan.Service) (sets [2]maps.Block, err error) {
	for set, endpoints := range want.Endpoints {
		if !uses(want, plan.Set(set)) || len(endpoints) == 0 {
			continue
		}
		ids := make([]uint32, len(endpoints))
		for i, e := range endpoints {
			ids[i] = svc.backends[endpointKey{e.Addr, e.Port}].id
		}
		if sets[set], err = r.putBlock(svc, ids); err != nil {
			return sets, err
		}
	}
	return sets, nil
}

func (r *Reconciler) putBlock(svc *service, ids []uint32) (maps.Block, error) {
	for _, b := range svc.blocks {
		if slices.Equal(b.ids, ids) {
			return b.Block, nil
		}
	}
	published, err := r.slots.Publish(ids, r.now())
	if err != nil {
		return maps.Block{}, err
	}
	r.writes.Blocks++
	svc.blocks = append(svc.blocks, block{published, ids})
	return published, nil
}

func uses(want plan.Service, set plan.Set) bool {
	return slices.ContainsFunc(want.Frontends, func(f plan.Frontend) bool {
		return f.External.Set == set || f.Internal.Set == set
	})
}

// putFrontends publishes: after each write, new flows to that frontend follow the new state. That
// one can't be written keeps no other from being so.
func (r *Reconciler) putFrontends(svc *service, want plan.Service, sets [2]maps.Block) error {
	var errs []error
	for _, f := range want.Frontends {
		owner := r.owners[f.Frontend]
		if owner != nil && owner != svc && !owner.leaving {
			errs = append(errs, fmt.Errorf("%w: %s belongs to service %s", ErrTaken, f.Frontend, owner.name))
			continue
		}
		element := maps.Service{
			ID:            svc.id,
			Kind:          f.Kind,
			External:      sets[f.External.Set],
			Internal:      sets[f.Internal.Set],
			ExternalDrop:  f.External.Drop,
			InternalDrop:  f.Internal.Drop,
			ExternalLocal: f.External.Set == plan.Local,
			InternalLocal: f.Internal.Set == plan.Local,
			SourceRanges:  f.Guarded,
			Affinity:      want.Affinity,
		}
		if have, ok := svc.frontends[f.Frontend]; ok && have == element {
			continue
		}
		if err := r.frontends.Put(f.Frontend, element); err != nil {
			errs = append(errs, err)
			continue
		}
		r.writes.Frontends++
		r.own(svc, f.Frontend, element)
	}
	return errors.Join(errs...)
}

// own notes that a frontend is a service's now, whosever it was.
func (r *Reconciler) own(svc *service, f maps.Frontend, element maps.Service) {
	r.disown(f)
	svc.frontends[f] = element
	r.owners[f] = svc
	if element.Kind == maps.ClusterIP {
		r.clusterIPs.hold(f.Addr)
	}
}

// disown notes that a frontend is nobody's.
func (r *Reconciler) disown(f maps.Frontend) {
	owner := r.owners[f]
	if owner == nil {
		return
	}
	if owner.frontends[f].Kind == maps.ClusterIP {
		r.clusterIPs.release(f.Addr)
	}
	delete(owner.frontends, f)
	delete(r.owners, f)
}

// dropUnused removes what the service no longer has, frontends first. What a frontend that could
// not be written or deleted refers to stays.
func (r *Reconciler) dropUnused(svc *service, want plan.Service) error {
	err := errors.Join(r.dropFrontends(svc, want), r.dropRanges(svc, want))
	used := map[maps.Block]bool{}
	for _, element := range svc.frontends {
		used[element.External], used[element.Internal] = true, true
	}
	keep := map[uint32]bool{}
	svc.blocks = slices.DeleteFunc(svc.blocks, func(b block) bool {
		if !used[b.Block] {
			r.slots.Free(b.Block, r.now())
			return true
		}
		for _, id := range b.ids {
			keep[id] = true
		}
		return false
	})
	return errors.Join(err, r.dropBackends(svc, want, keep))
}

func (r *Reconciler) dropFrontends(svc *service, want plan.Service) error {
	keep := map[maps.Frontend]bool{}
	for _, f := range want.Frontends {
		keep[f.Frontend] = true
	}
	var errs []error
	for f := range svc.frontends {
		if keep[f] {
			continue
		}
		if err := r.frontends.Delete(f); err != nil {
			errs = append(errs, err)
			continue
		}
		r.writes.Frontends++
		r.disown(f)
	}
	return errors.Join(errs...)
}

// dropBackends removes the backends that are neither wanted nor in the blocks still in use. One
// whose endpoint still serves is only taken out of service.
func (r *Reconciler) dropBackends(svc *service, want plan.Service, keep map[uint32]bool) error {
	wanted, serving := map[endpointKey]bool{}, map[endpointKey]bool{}
	for _, e := range want.Kept {
		serving[endpointKey{e.Addr, e.Port}] = true
	}
	for _, set := range want.Endpoints {
		for _, e := range set {
			wanted[endpointKey{e.Addr, e.Port}] = true
		}
	}
	var errs []error
	for key, ref := range svc.backends {
		if wanted[key] || keep[ref.id] || ref.backend.Kept && serving[key] {
			continue
		}
		r.writes.Backends++
		if serving[key] {
			ref.backend.InCluster, ref.backend.InLocal, ref.backend.Kept = false, false, true
			svc.backends[key] = ref
			errs = append(errs, r.backends.Write(ref.id, ref.backend))
			continue
		}
		delete(svc.backends, key)
		if svc.name.Proto == unix.IPPROTO_UDP {
			r.retired++
		}
		errs = append(errs, r.backends.Remove(ref.id, ref.backend, r.now()))
	}
	return errors.Join(errs...)
}

// Leave announces that services will be deleted after the next ones are applied: those may take
// over their frontends in one step, so that a service that is renamed is never away.
func (r *Reconciler) Leave(names []maps.Name) {
	for _, name := range names {
		if svc := r.services[name]; svc != nil {
			svc.leaving = true
		}
	}
}

// Delete removes a service from the maps.
func (r *Reconciler) Delete(name maps.Name) error {
	svc := r.services[name]
	if svc == nil {
		return nil
	}
	if err := errors.Join(r.dropUnused(svc, plan.Service{Name: name}), r.clusterIPs.sync()); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	if err := r.names.Delete(svc.id); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	delete(r.services, name)
	r.writes.Names++
	r.names.IDs().Free(svc.id, r.now())
	return nil
}

// Collect gives back what has rested long enough. Call it now and then.
func (r *Reconciler) Collect() { r.backends.Collect(r.now()) }

// SPDX-License-Identifier: Apache-2.0

// Package reconcile makes the maps hold what the planner wants, one service at a time: the work is
// proportional to the change. Every change is published by replacing single elements of the
// services map, after all that they refer to has been written.
package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// block is a block of slots with its content. It never changes: an element of the services map may
// refer to it, so a changed set of backends gets a new block (docs/design.md, "Choosing a backend").
type block struct {
	maps.Block
	ids []uint32 // of backends, by slot
}

// frontend is a frontend with its element of the map.
type frontend struct {
	maps.Frontend
	element maps.Service // as last written
}

// service is the state of one service port in the maps. There are many of them, and most are small,
// so it has slices, which take less memory than maps.
type service struct {
	id        uint32         // in service_names; in use as long as the service is in Reconciler.services
	leaving   bool           // since Leave, until Apply or Delete: other services may take its frontends over
	kind      maps.Type      // in service_names, as last written
	name      maps.Name      // in service_names; never changes
	backends  []backend      // written, and not removed yet; sorted, see backend.compare
	blocks    []block        // published, and not given back yet
	frontends []frontend     // written, and not deleted yet
	ranges    []netip.Prefix // written, and not deleted yet
}

// Reconciler owns the contents of the maps that describe services. It is not safe for concurrent
// use: the Proxy's mutex guards it. After New, its fields agree with what it has written. Only Repair
// reads the maps again.
type Reconciler struct {
	names      *maps.Names    // service_names, and the allocator of services' ids
	backends   *maps.Backends // and the allocator of backends' ids
	slots      *maps.Slots    // and the allocator of blocks
	frontends  *maps.Services // services4 and services6
	sources    *maps.Sources  // source ranges, and the cluster's own addresses
	clusterIPs *clusterIPs    // kept by own and disown, written by their sync
	stats      *maps.Stats    // counters; the datapath writes them

	services map[maps.Name]*service     // every service that has its name in the map
	byID     map[uint32]*service        // the same, by service.id
	owners   map[maps.Frontend]*service // of every frontend in the map
	size     Size                       // of the maps above
	wanted   []backend                  // of the service at hand, valid during Apply and Delete; kept for its memory
	local    []netip.Prefix             // the cluster's own addresses; nil before SetLocalSources
	writes   Writes                     // since the start
	retired  int                        // since the start, see Retired
	now      func() time.Time           // time.Now, except in tests
}

// Writes counts what the reconciler has written. Tests and the status use it to see whether there
// was work.
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

// Len returns the number of services in the maps.
func (r *Reconciler) Len() int { return len(r.services) }

// Has reports whether a service of that name is in the maps.
func (r *Reconciler) Has(name maps.Name) bool { return r.services[name] != nil }

// ErrTaken is returned by Apply if another service holds a frontend. The rest of the service works.
var ErrTaken = errors.New("frontend is taken")

// Apply brings one service to its desired state. After an error each frontend of the service is in
// its old or its new state, and the next Apply continues. The error is ErrTaken if another service
// holds a frontend.
//
// The order is that of publishing: backends, slots and source ranges come before the frontends that
// refer to them, and go after them, so a packet never finds a reference to what is not there.
func (r *Reconciler) Apply(want plan.Service) error {
	svc, err := r.service(want.Name, want.Type)
	if err != nil {
		return err
	}
	r.want(want)
	if err := r.putBackends(svc); err != nil {
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
func (r *Reconciler) service(name maps.Name, kind maps.Type) (*service, error) {
	if svc := r.services[name]; svc != nil {
		svc.leaving = false
		return svc, r.setType(svc, kind)
	}
	// The id may have belonged to another service. Its backends were removed before it. Collect clears their
	// elements and counters first, so that none of them counts for the new service.
	now := r.now()
	r.backends.Collect(now)
	id, err := r.names.IDs().Alloc(now)
	if err != nil {
		return nil, fmt.Errorf("service %s: %w", name, err)
	}
	err = r.stats.AddService(id)
	if err == nil {
		err = r.names.Put(id, name, kind)
	}
	if err != nil {
		r.names.IDs().Free(id, r.now())
		return nil, err
	}
	r.writes.Names++
	return r.addService(id, name, kind), nil
}

func (r *Reconciler) setType(svc *service, kind maps.Type) error {
	if svc.kind == kind {
		return nil
	}
	if err := r.names.Put(svc.id, svc.name, kind); err != nil {
		return err
	}
	r.writes.Names++
	svc.kind = kind
	return nil
}

// addService adds a service that has its name in the map.
func (r *Reconciler) addService(id uint32, name maps.Name, kind maps.Type) *service {
	svc := &service{id: id, name: name, kind: kind}
	r.services[name], r.byID[id] = svc, svc
	r.size.Services[name.Family]++
	return svc
}

// putBlocks finds or publishes the block of each set.
func (r *Reconciler) putBlocks(svc *service, want plan.Service) (sets [2]maps.Block, err error) {
	for set, endpoints := range want.Endpoints {
		if !uses(want, plan.Set(set)) || len(endpoints) == 0 {
			continue
		}
		ids := make([]uint32, len(endpoints))
		for i, e := range endpoints {
			at, _ := find(svc.backends, e.Addr, e.Port)
			ids[i] = svc.backends[at].id
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

// putFrontends publishes: after each write, new flows to that frontend follow the new state. If one
// can't be written, the others still are.
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
		if have := svc.frontend(f.Frontend); have != nil && have.element == element {
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

// frontend finds a frontend of the service; nil if it has none such.
func (s *service) frontend(f maps.Frontend) *frontend {
	for i := range s.frontends {
		if s.frontends[i].Frontend == f {
			return &s.frontends[i]
		}
	}
	return nil
}

// own notes that a frontend belongs to a service now, even if another one had it.
func (r *Reconciler) own(svc *service, f maps.Frontend, element maps.Service) {
	r.disown(f)
	svc.frontends = append(svc.frontends, frontend{f, element})
	r.owners[f] = svc
	r.size.Frontends[maps.FamilyOf(f.Addr)]++
	if element.Kind == maps.ClusterIP {
		r.clusterIPs.hold(f.Addr)
	}
}

// disown notes that a frontend belongs to no service.
func (r *Reconciler) disown(f maps.Frontend) {
	owner := r.owners[f]
	if owner == nil {
		return
	}
	if owner.frontend(f).element.Kind == maps.ClusterIP {
		r.clusterIPs.release(f.Addr)
	}
	owner.frontends = slices.DeleteFunc(owner.frontends, func(have frontend) bool { return have.Frontend == f })
	delete(r.owners, f)
	r.size.Frontends[maps.FamilyOf(f.Addr)]--
}

// dropUnused removes what the service no longer has, frontends first. If a frontend could not be
// written or deleted, what it refers to stays.
func (r *Reconciler) dropUnused(svc *service, want plan.Service) error {
	err := errors.Join(r.dropFrontends(svc, want), r.dropRanges(svc, want))
	svc.blocks = slices.DeleteFunc(svc.blocks, func(b block) bool {
		used := slices.ContainsFunc(svc.frontends, func(f frontend) bool {
			return f.element.External == b.Block || f.element.Internal == b.Block
		})
		if !used {
			r.slots.Free(b.Block, r.now())
		}
		return !used
	})
	return errors.Join(err, r.dropBackends(svc, want))
}

func (r *Reconciler) dropFrontends(svc *service, want plan.Service) error {
	var errs []error
	for i := len(svc.frontends) - 1; i >= 0; i-- { // disown removes it from the list
		f := svc.frontends[i].Frontend
		if slices.ContainsFunc(want.Frontends, func(kept plan.Frontend) bool { return kept.Frontend == f }) {
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

// Leave announces that services will be deleted after the next ones are applied. The next ones may
// take over their frontends in one step, so that a service that is renamed is always there.
func (r *Reconciler) Leave(names []maps.Name) {
	for _, name := range names {
		if svc := r.services[name]; svc != nil {
			svc.leaving = true
		}
	}
}

// Delete removes a service from the maps. It returns no error for one that isn't there.
func (r *Reconciler) Delete(name maps.Name) error {
	svc := r.services[name]
	if svc == nil {
		return nil
	}
	r.want(plan.Service{Name: name})
	if err := errors.Join(r.dropUnused(svc, plan.Service{Name: name}), r.clusterIPs.sync()); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	if err := errors.Join(r.names.Delete(svc.id), r.stats.DropService(svc.id)); err != nil {
		return fmt.Errorf("service %s: %w", name, err)
	}
	delete(r.services, name)
	delete(r.byID, svc.id)
	r.size.Services[name.Family]--
	r.writes.Names++
	r.names.IDs().Free(svc.id, r.now())
	return nil
}

// Collect frees removed backends whose grace period is over. Call it at intervals.
func (r *Reconciler) Collect() { r.backends.Collect(r.now()) }

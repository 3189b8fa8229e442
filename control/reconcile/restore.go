// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"slices"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/maps"
)

// New rebuilds the reconciler's state from the maps, which may hold what an earlier run left. It
// changes nothing that a packet could be using, and clears elements that no service refers to.
func New(p maps.Provider, log *logrus.Entry) (*Reconciler, error) {
	backends, err := maps.NewBackends(p)
	if err != nil {
		return nil, err
	}
	slots, err := maps.NewSlots(p)
	if err != nil {
		return nil, err
	}
	clusterIPs, err := newClusterIPs(p)
	if err != nil {
		return nil, err
	}
	r := &Reconciler{
		sources:    maps.NewSources(p),
		clusterIPs: clusterIPs,
		stats:      maps.NewStats(p),
		names:      maps.NewNames(p),
		backends:   backends,
		slots:      slots,
		frontends:  maps.NewServices(p),
		services:   map[maps.Name]*service{},
		byID:       map[uint32]*service{},
		owners:     map[maps.Frontend]*service{},
		size:       Size{Services: map[maps.Family]int{maps.IPv4: 0, maps.IPv6: 0}, Frontends: map[maps.Family]int{maps.IPv4: 0, maps.IPv6: 0}},
		now:        time.Now,
	}
	return r, r.restore(log)
}

// unknown is an element that no plan can want: the next Apply replaces it.
var unknown maps.Service

func (r *Reconciler) restore(log *logrus.Entry) error {
	if err := r.prune(log); err != nil {
		return err
	}
	byID, err := r.restoreNames(log)
	if err != nil {
		return err
	}
	if err := r.restoreFrontends(byID, log); err != nil {
		return err
	}
	if err := r.restoreBackends(byID); err != nil {
		return err
	}
	if err := r.restoreRanges(byID); err != nil {
		return err
	}
	if err := r.clusterIPs.sync(); err != nil {
		return err
	}
	if err := r.restoreStats(); err != nil {
		return err
	}
	log.WithFields(logrus.Fields{"services": len(r.services), "frontends": len(r.owners),
		"backends": r.backends.InUse()}).Info("maps read")
	return nil
}

// prune removes elements that no agent has written.
func (r *Reconciler) prune(log *logrus.Entry) error {
	frontends, err := r.frontends.Prune()
	if err != nil {
		return err
	}
	ranges, err := r.sources.Prune()
	if frontends+ranges > 0 {
		log.WithFields(logrus.Fields{"frontends": frontends, "ranges": ranges}).
			Warn("elements in the maps have invalid keys, dropping them")
	}
	return err
}

func (r *Reconciler) restoreNames(log *logrus.Entry) (map[uint32]*service, error) {
	names, err := r.names.All()
	if err != nil {
		return nil, err
	}
	types, err := r.names.Types()
	if err != nil {
		return nil, err
	}
	byID := map[uint32]*service{}
	for id, name := range names {
		if err := r.names.IDs().Reserve(id); err != nil {
			log.WithField("service", name).WithError(err).Warn("dropping a name from the maps")
			if err := r.names.Delete(id); err != nil {
				return nil, err
			}
			continue
		}
		if twin := r.services[name]; twin != nil {
			// Elements with either id belong to this service; the next Apply writes them again.
			log.WithFields(logrus.Fields{"service": name, "id": id, "other": twin.id}).
				Warn("service is named twice in the maps, dropping one")
			byID[id] = twin
			if err := r.names.Delete(id); err != nil {
				return nil, err
			}
			r.names.IDs().Free(id, r.now())
			continue
		}
		byID[id] = r.addService(id, name, types[id])
	}
	return byID, nil
}

func (r *Reconciler) restoreFrontends(byID map[uint32]*service, log *logrus.Entry) error {
	frontends, err := r.frontends.All()
	if err != nil {
		return err
	}
	for f, element := range frontends {
		svc := byID[element.ID]
		if svc == nil {
			log.WithFields(logrus.Fields{"frontend": f, "id": element.ID}).
				Warn("frontend of an unnamed service in the maps, dropping it")
			if err := r.frontends.Delete(f); err != nil {
				return err
			}
			continue
		}
		r.own(svc, f, element)
		for _, b := range []maps.Block{element.External, element.Internal} {
			if err := r.restoreBlock(svc, b); err != nil {
				r.own(svc, f, unknown)
				log.WithFields(logrus.Fields{"service": svc.name, "frontend": f}).
					WithError(err).Warn("slots in the maps are invalid, they will be written again")
			}
		}
	}
	return nil
}

func (r *Reconciler) restoreBlock(svc *service, b maps.Block) error {
	for _, known := range svc.blocks {
		if known.Block == b {
			return nil
		}
	}
	if b.Count == 0 {
		return nil
	}
	if err := r.slots.Reserve(b); err != nil {
		return err
	}
	ids, err := r.slots.Read(b)
	if err != nil {
		return err
	}
	svc.blocks = append(svc.blocks, block{b, ids})
	return nil
}

func (r *Reconciler) restoreBackends(byID map[uint32]*service) error {
	backends, err := r.backends.All()
	if err != nil {
		return err
	}
	for id, b := range backends {
		if err := r.backends.Reserve(id); err != nil {
			return err
		}
		if svc := byID[b.Service]; svc != nil && r.restoreBackend(svc, id, b) {
			continue
		}
		if err := r.backends.Remove(id, b, r.now()); err != nil {
			return err
		}
	}
	return nil
}

// restoreBackend takes a backend over. It does not take one that is not consistent with its
// service.
func (r *Reconciler) restoreBackend(svc *service, id uint32, b maps.Backend) bool {
	at, twin := find(svc.backends, b.Addr, b.Port)
	have := backend{addr: b.Addr, port: b.Port, flags: flagsOf(b), id: id}
	if twin || !b.Serving() && !b.Kept {
		return false
	}
	if svc.element(have) != b {
		have.flags |= isStale
	}
	svc.backends = slices.Insert(svc.backends, at, have)
	return true
}

// restoreStats goes on counting for what was restored, and for nothing else.
func (r *Reconciler) restoreStats() error {
	var services []uint32
	backends := map[uint32]uint32{}
	for id, svc := range r.byID {
		services = append(services, id)
		for _, b := range svc.backends {
			backends[b.id] = id
		}
	}
	return r.stats.Keep(services, backends)
}

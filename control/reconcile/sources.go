// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// putRanges writes the source ranges that are new, before any frontend asks for them.
func (r *Reconciler) putRanges(svc *service, want plan.Service) error {
	for _, p := range want.SourceRanges {
		if svc.ranges[p] {
			continue
		}
		if err := r.sources.Put(svc.id, p); err != nil {
			return err
		}
		r.writes.Ranges++
		svc.ranges[p] = true
	}
	return nil
}

// dropRanges removes the source ranges that are not wanted, after the frontends have changed. A
// service that is to be open to all loses none while a frontend could not be opened.
func (r *Reconciler) dropRanges(svc *service, want plan.Service) error {
	if len(want.SourceRanges) == 0 && svc.guarded() {
		return nil
	}
	var errs []error
	for p := range svc.ranges {
		if slices.Contains(want.SourceRanges, p) {
			continue
		}
		if err := r.sources.Delete(svc.id, p); err != nil {
			errs = append(errs, err)
			continue
		}
		r.writes.Ranges++
		delete(svc.ranges, p)
	}
	return errors.Join(errs...)
}

// guarded tells whether a frontend in the map asks for source ranges.
func (s *service) guarded() bool {
	for _, element := range s.frontends {
		if element.SourceRanges {
			return true
		}
	}
	return false
}

// SetLocalSources tells the cluster's own addresses, whose clients count as inside.
func (r *Reconciler) SetLocalSources(prefixes []netip.Prefix) error {
	if err := r.sources.Set(maps.LocalSources, prefixes); err != nil {
		return fmt.Errorf("the cluster's own addresses: %w", err)
	}
	r.local = map[netip.Prefix]bool{}
	for _, p := range prefixes {
		r.local[p.Masked()] = true
	}
	return nil
}

// restoreRanges takes over the source ranges in the maps, and clears away those of no service.
func (r *Reconciler) restoreRanges(byID map[uint32]*service) error {
	all, err := r.sources.All()
	if err != nil {
		return err
	}
	for id, prefixes := range all {
		if id == maps.LocalSources {
			continue // not a service's, see SetLocalSources
		}
		for _, p := range prefixes {
			if err := r.restoreRange(byID[id], id, p); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Reconciler) restoreRange(svc *service, id uint32, p netip.Prefix) error {
	if svc == nil || svc.id != id {
		return r.sources.Delete(id, p)
	}
	svc.ranges[p] = true
	return nil
}

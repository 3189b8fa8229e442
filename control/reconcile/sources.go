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

// putRanges writes the source ranges that are new, before any frontend uses them.
func (r *Reconciler) putRanges(svc *service, want plan.Service) error {
	for _, p := range want.SourceRanges {
		if slices.Contains(svc.ranges, p) {
			continue
		}
		if err := r.sources.Put(svc.id, p); err != nil {
			return err
		}
		r.writes.Ranges++
		svc.ranges = append(svc.ranges, p)
	}
	return nil
}

// dropRanges removes the source ranges that are not wanted, after the frontends have changed. A
// service that is to be open to all keeps them while a frontend could not be opened.
func (r *Reconciler) dropRanges(svc *service, want plan.Service) error {
	if len(want.SourceRanges) == 0 && svc.guarded() {
		return nil
	}
	var errs []error
	svc.ranges = slices.DeleteFunc(svc.ranges, func(p netip.Prefix) bool {
		if slices.Contains(want.SourceRanges, p) {
			return false
		}
		if err := r.sources.Delete(svc.id, p); err != nil {
			errs = append(errs, err)
			return false
		}
		r.writes.Ranges++
		return true
	})
	return errors.Join(errs...)
}

// guarded reports whether a frontend in the map uses source ranges.
func (s *service) guarded() bool {
	return slices.ContainsFunc(s.frontends, func(f frontend) bool { return f.element.SourceRanges })
}

// SetLocalSources sets the cluster's own addresses. Clients with these addresses count as inside.
func (r *Reconciler) SetLocalSources(prefixes []netip.Prefix) error {
	if err := r.sources.Set(maps.LocalSources, prefixes); err != nil {
		return fmt.Errorf("the cluster's own addresses: %w", err)
	}
	r.local = []netip.Prefix{}
	for _, p := range prefixes {
		r.local = append(r.local, p.Masked())
	}
	return nil
}

// restoreRanges takes over the source ranges in the maps, and removes those of no service.
func (r *Reconciler) restoreRanges(byID map[uint32]*service) error {
	all, err := r.sources.All()
	if err != nil {
		return err
	}
	for id, prefixes := range all {
		if id == maps.LocalSources {
			continue // these belong to no service, see SetLocalSources
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
	if !slices.Contains(svc.ranges, p) {
		svc.ranges = append(svc.ranges, p)
	}
	return nil
}

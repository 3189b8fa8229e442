// SPDX-License-Identifier: Apache-2.0

package reconcile

import "github.com/waggle-lb/waggle/maps"

// Size is how much the maps hold of what the reconciler owns.
type Size struct {
	Services  map[maps.Family]int
	Frontends map[maps.Family]int
	Backends  int
}

// Size counts, without reading the maps.
func (r *Reconciler) Size() Size {
	s := Size{Services: map[maps.Family]int{}, Frontends: map[maps.Family]int{}, Backends: r.backends.InUse()}
	for name := range r.services {
		s.Services[name.Family]++
	}
	for frontend := range r.owners {
		s.Frontends[maps.FamilyOf(frontend.Addr)]++
	}
	return s
}

// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	stdmaps "maps"

	"github.com/waggle-lb/waggle/maps"
)

// Size counts what the reconciler owns in the maps.
type Size struct {
	Services  map[maps.Family]int
	Frontends map[maps.Family]int
	Backends  int
}

// Size counts without reading the maps.
func (r *Reconciler) Size() Size {
	return Size{stdmaps.Clone(r.size.Services), stdmaps.Clone(r.size.Frontends), r.backends.InUse()}
}

// SPDX-License-Identifier: Apache-2.0

package reconcile

import "github.com/waggle-lb/waggle/maps"

// EachBackend calls fn with all backends that new flows may be sent to.
func (r *Reconciler) EachBackend(fn func(maps.Backend)) {
	for _, svc := range r.services {
		for _, b := range svc.backends {
			if b.flags&serving != 0 {
				fn(svc.element(b))
			}
		}
	}
}

// EachFrontend calls fn with all frontends, and what kind each is.
func (r *Reconciler) EachFrontend(fn func(maps.Frontend, maps.Kind)) {
	for _, svc := range r.services {
		for _, f := range svc.frontends {
			fn(f.Frontend, f.element.Kind)
		}
	}
}

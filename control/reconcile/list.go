// SPDX-License-Identifier: Apache-2.0

package reconcile

import "github.com/waggle-lb/waggle/maps"

// EachBackend calls fn with all backends that new flows may go to. Between services it calls pause, which may
// let others change them: fn may miss what comes or goes meanwhile.
func (r *Reconciler) EachBackend(fn func(maps.Backend), pause func()) {
	for _, svc := range r.services {
		pause()
		for _, b := range svc.backends {
			if b.flags&serving != 0 {
				fn(svc.element(b))
			}
		}
	}
}

// EachFrontend calls fn with all frontends, and the kind of each. pause is as in EachBackend.
func (r *Reconciler) EachFrontend(fn func(maps.Frontend, maps.Kind), pause func()) {
	for _, svc := range r.services {
		pause()
		for _, f := range svc.frontends {
			fn(f.Frontend, f.element.Kind)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package reconcile

import (
	"math/rand/v2"
	"slices"

	"github.com/waggle-lb/waggle/maps"
)

// Sample is a frontend, and where the maps should lead from it.
type Sample struct {
	Name     maps.Name
	Frontend maps.Frontend // of one address
	Service  uint32        // id
	Backends []uint32      // ids of those that new flows may go to, sorted
}

// Equal reports whether two samples agree.
func (s Sample) Equal(other Sample) bool {
	return s.Frontend == other.Frontend && s.Service == other.Service && slices.Equal(s.Backends, other.Backends)
}

// Sample returns any of the frontends but the wildcards of NodePorts. The result is false if there
// is none.
func (r *Reconciler) Sample() (Sample, bool) {
	for _, svc := range r.services {
		for i, first := 0, rand.IntN(len(svc.frontends)+1); i < len(svc.frontends); i++ {
			f := svc.frontends[(first+i)%len(svc.frontends)].Frontend
			if !f.Addr.IsUnspecified() {
				return svc.sample(f), true
			}
		}
	}
	return Sample{}, false
}

// SampleOf returns the present sample of a frontend. The result is false if the frontend belongs to
// no service any more.
func (r *Reconciler) SampleOf(f maps.Frontend) (Sample, bool) {
	svc := r.owners[f]
	if svc == nil {
		return Sample{}, false
	}
	return svc.sample(f), true
}

func (s *service) sample(f maps.Frontend) Sample {
	sample := Sample{Name: s.name, Frontend: f, Service: s.id}
	for _, b := range s.backends {
		if b.flags&serving != 0 {
			sample.Backends = append(sample.Backends, b.id)
		}
	}
	slices.Sort(sample.Backends)
	return sample
}

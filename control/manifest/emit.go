// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"

	"github.com/waggle-lb/waggle/control/source"
)

// delta is all that one look at the directory changed.
type delta struct {
	nodes    changes[v1.Node]
	services changes[v1.Service]
	slices   changes[discovery.EndpointSlice]
}

// emitStart tells all there is, in the order in which it is of use.
func (d *delta) emitStart(sink source.Sink) {
	emit(sink.OnNode, d.nodes.added)
	emit(sink.OnService, d.services.added)
	emit(sink.OnEndpointSlice, d.slices.added)
	sink.OnSynced()
}

// emit tells what has changed such that no Service is without endpoints on the way, should the
// receiver act in the midst of it:
//
//   - Nodes first, since zones and addresses decide how the rest is taken.
//   - Slices are added before any changes or goes, for endpoints that move from one to another,
//     and before the Services that will look for them.
//   - A Service goes before its slices do: clients find it gone, but never refused.
//   - Nodes go last, when nothing refers to them.
func (d *delta) emit(sink source.Sink) {
	emit(sink.OnNode, d.nodes.added)
	emit(sink.OnNode, d.nodes.updated)
	emit(sink.OnEndpointSlice, d.slices.added)
	emit(func(old, new *discovery.EndpointSlice) { source.UpdateSlice(sink, old, new) }, d.slices.updated)
	emit(sink.OnService, d.services.added)
	emit(sink.OnService, d.services.updated)
	emit(sink.OnService, d.services.removed)
	emit(sink.OnEndpointSlice, d.slices.removed)
	emit(sink.OnNode, d.nodes.removed)
}

func emit[T any](tell func(old, new *T), steps []step[T]) {
	for _, s := range steps {
		tell(s.old, s.new)
	}
}

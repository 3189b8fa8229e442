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

// emitStart delivers all objects, each after those that it depends on.
func (d *delta) emitStart(sink source.Sink) {
	emit(sink.OnNode, d.nodes.added)
	emit(sink.OnService, d.services.added)
	emit(sink.OnEndpointSlice, d.slices.added)
	sink.OnSynced()
}

// emit delivers the changes in an order that leaves no Service without endpoints at any moment: the
// receiver may sync between two of them.
//
//   - Nodes come first, since zones and addresses decide how other objects are handled.
//   - New slices come before changed and removed ones, for endpoints that move from one slice to
//     another, and before new Services.
//   - A Service is removed before its slices: until then it has endpoints, and refuses no client.
//   - Nodes are removed last, when nothing refers to them.
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

func emit[T any](deliver func(old, new *T), steps []step[T]) {
	for _, s := range steps {
		deliver(s.old, s.new)
	}
}

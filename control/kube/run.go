// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"sync"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/waggle-lb/waggle/control/source"
)

// run is one run of a Source.
type run struct {
	*Source
	log    *logrus.Entry
	sink   source.Sink
	cancel context.CancelCauseFunc

	mu     sync.Mutex // held during calls of the sink
	err    error      // why the run can't continue
	own    ownNode
	ranges *ranges
}

func newRun(s *Source, sink source.Sink, cancel context.CancelCauseFunc) *run {
	return &run{
		Source: s, log: s.opts.Log, sink: sink, cancel: cancel,
		own:    ownNode{name: s.opts.NodeName, delivered: make(chan struct{}), patient: true},
		ranges: newRanges(sink, s.opts.ServiceCIDRs),
	}
}

// start waits for the objects that have to come before any deletion, and then calls OnSynced. It
// returns false if they did not come.
func (r *run) start(ctx context.Context, needed []cache.DoneChecker) bool {
	if !cache.WaitFor(ctx, "", needed...) {
		return false
	}
	if !r.awaitNode(ctx) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return false
	}
	r.ranges.begin()
	r.sink.OnSynced()
	r.recorder.Eventf(r.nodeRef(), nil, v1.EventTypeNormal, "Starting", "StartWaggle", "Services are served on this node by waggle")
	return true
}

// onService passes a Service on, and notes its addresses.
func (r *run) onService(old, new *v1.Service) {
	r.addresses.follow(old, new)
	r.sink.OnService(old, new)
}

// onSlice passes on a slice, and learns from it if it is the API servers'.
func (r *run) onSlice(old, new *discovery.EndpointSlice) {
	if err := r.learning.follow(old, new); err != nil {
		r.log.WithError(err).Warn("the addresses of the API servers can't be kept")
	}
	if old != nil && new != nil {
		source.UpdateSlice(r.sink, old, new)
		return
	}
	r.sink.OnEndpointSlice(old, new)
}

// fail ends the run.
func (r *run) fail(err error) {
	if r.err == nil {
		r.err = err
	}
	r.cancel(err)
}

func (r *run) failure() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

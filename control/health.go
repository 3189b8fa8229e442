// SPDX-License-Identifier: Apache-2.0

package control

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"

	"github.com/waggle-lb/waggle/control/source"
	wagglemaps "github.com/waggle-lb/waggle/maps"
)

// Health tells whether the proxy keeps up, with kube-proxy's own library: it is unhealthy while a
// change that should be in the maps isn't, for longer than two sync periods.
type Health struct {
	*healthcheck.ProxyHealthServer
	node *nodeHealth
	// started: the source has synced, so changes are to be written.
	started atomic.Bool
}

// NewHealth makes a Health that Run, once called, serves on an address.
func NewHealth(address string, syncPeriod time.Duration) *Health {
	node := &nodeHealth{}
	h := &Health{healthcheck.NewProxyHealthServer(address, 2*syncPeriod, node), node, atomic.Bool{}}
	for _, family := range ipFamilies {
		h.Updated(family) // or else a first sync that never succeeds would go unnoticed
	}
	return h
}

// ipFamilies are the families under Kubernetes' names.
var ipFamilies = map[wagglemaps.Family]v1.IPFamily{
	wagglemaps.IPv4: v1.IPv4Protocol,
	wagglemaps.IPv6: v1.IPv6Protocol,
}

// queued tells that there is something to be written.
func (h *Health) queued() {
	if h.started.Load() {
		for family := range maps.Values(ipFamilies) {
			h.QueuedUpdate(family)
		}
	}
}

// nodeHealth knows whether our node is to get traffic from outside.
type nodeHealth struct {
	mu   sync.Mutex
	node *v1.Node
}

// Node returns our Node object; nil, which is not eligible for traffic, before it is known and
// when it has been deleted. It is part of an interface of the library.
func (n *nodeHealth) Node() *v1.Node {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node
}

func (n *nodeHealth) set(node *v1.Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node = node
}

// healthSink lets the health follow our Node object, on its way to the proxy.
type healthSink struct {
	source.Sink
	nodeName string
	node     *nodeHealth
}

// OnNode is part of source.Sink.
func (s healthSink) OnNode(old, new *v1.Node) {
	switch {
	case new != nil && new.Name == s.nodeName:
		s.node.set(new)
	case new == nil && old != nil && old.Name == s.nodeName:
		s.node.set(nil)
	}
	s.Sink.OnNode(old, new)
}

// OnSynced is part of source.Sink.
func (s healthSink) OnSynced() {
	if s.node.Node() == nil {
		s.node.set(&v1.Node{}) // a source without Node objects says nothing against the node
	}
	s.Sink.OnSynced()
}

// prepareHealth has the proxy watched, and tells what is wrong with the configuration.
func (a *Agent) prepareHealth() {
	if a.cfg.Pace != (Pace{}) {
		a.proxy.pace = a.cfg.Pace
	}
	a.health = NewHealth(a.cfg.Serve.Healthz, a.proxy.pace.Repair)
	var recorder events.EventRecorder
	if r, ok := a.src.(source.Recorder); ok {
		recorder = r.Recorder()
	}
	a.checks = newServiceHealth(a.cfg.NodeName, a.cfg.NodePorts, a.health, recorder)
	w := a.proxy.watch
	w.health, w.services, w.warn = a.health, a.checks, a.warn
	for about, err := range a.cfg.Warnings {
		a.warn(about, err)
	}
}

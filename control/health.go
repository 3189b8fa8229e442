// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/events"
	compbasemetrics "k8s.io/component-base/metrics"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/metrics"
	"k8s.io/utils/ptr"

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

// NewHealth makes a Health; handler serves it. (The library's own server gives its clients any time.)
func NewHealth(syncPeriod time.Duration) *Health {
	node := &nodeHealth{}
	h := &Health{healthcheck.NewProxyHealthServer("", 2*syncPeriod, node), node, atomic.Bool{}}
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

// handler answers /healthz and /livez as kube-proxy does.
func (h *Health) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		health := h.Health()
		answerHealth(w, health, health.Healthy, metrics.ProxyLivezTotal)
	})
	m.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		health := h.Health()
		health.NodeEligible = ptr.To(h.NodeEligible())
		answerHealth(w, health, health.Healthy && *health.NodeEligible, metrics.ProxyHealthzTotal)
	})
	return m
}

// answerHealth counts the answer. While all is well there is nothing older than now, as in kube-proxy.
func answerHealth(w http.ResponseWriter, health healthcheck.ProxyHealth, well bool, count *compbasemetrics.CounterVec) {
	status := http.StatusServiceUnavailable
	if well {
		status = http.StatusOK
		health.LastUpdated = time.Now()
	}
	count.WithLabelValues(strconv.Itoa(status)).Inc()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(health) // the client may have gone
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
	a.health = NewHealth(a.proxy.pace.Repair)
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

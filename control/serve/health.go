// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"encoding/json"
	"maps"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	compbasemetrics "k8s.io/component-base/metrics"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"
	"k8s.io/kubernetes/pkg/proxy/metrics"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/plan"
)

// Health reports whether the proxy keeps up, with kube-proxy's own library: the proxy is unhealthy
// when a change is not in the maps after two sync periods.
type Health struct {
	*healthcheck.ProxyHealthServer
	node *nodeHealth
	// started: the source has synced, so changes are to be written.
	started atomic.Bool
	// datapath returns what is wrong with the datapath; nil until Datapath is called.
	datapath atomic.Pointer[func() error]
}

// NewHealth makes a Health; Start serves it. (The library's own server has no timeouts for clients.)
func NewHealth(syncPeriod time.Duration) *Health {
	node := &nodeHealth{}
	h := &Health{ProxyHealthServer: healthcheck.NewProxyHealthServer("", 2*syncPeriod, node), node: node}
	for _, family := range plan.IPFamilies {
		h.Updated(family) // or else a first sync that never succeeds would go unnoticed
	}
	return h
}

// Synced notes that the source has delivered everything: from now on changes are to be written.
func (h *Health) Synced() { h.started.Store(true) }

// Queued notes that there is something to be written. Before Synced it does nothing.
func (h *Health) Queued() {
	if h.started.Load() {
		for family := range maps.Values(plan.IPFamilies) {
			h.QueuedUpdate(family)
		}
	}
}

// Datapath sets the function that returns what is wrong with the datapath.
func (h *Health) Datapath(wrong func() error) { h.datapath.Store(&wrong) }

// errDatapath returns what is wrong with the datapath; nil: nothing is known to be wrong.
func (h *Health) errDatapath() error {
	if wrong := h.datapath.Load(); wrong != nil {
		return (*wrong)()
	}
	return nil
}

// Node returns our Node object, and nil while there is none.
func (h *Health) Node() *v1.Node { return h.node.Node() }

// SetNode sets our Node object; nil: it was deleted. An empty object counts as a healthy node.
func (h *Health) SetNode(node *v1.Node) { h.node.set(node) }

// handler answers /healthz and /livez as kube-proxy does. /healthz also fails if the datapath does not work:
// load balancers should then use other nodes. /livez does not, since a restart may not help.
func (h *Health) handler() http.Handler {
	m := http.NewServeMux()
	m.HandleFunc("/livez", func(w http.ResponseWriter, _ *http.Request) {
		health := h.Health()
		answerHealth(w, answer{ProxyHealth: health}, health.Healthy, metrics.ProxyLivezTotal)
	})
	m.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		health := h.Health()
		health.NodeEligible = ptr.To(h.NodeEligible())
		a := answer{ProxyHealth: health}
		if err := h.errDatapath(); err != nil {
			a.Healthy, a.Datapath = false, err.Error()
		}
		answerHealth(w, a, a.Healthy && *health.NodeEligible, metrics.ProxyHealthzTotal)
	})
	return m
}

// answer is kube-proxy's answer, and what is wrong with the datapath.
type answer struct {
	healthcheck.ProxyHealth
	Datapath string `json:"datapath,omitempty"`
}

// answerHealth counts the answer. While all is well lastUpdated is the present time, as in kube-proxy.
func answerHealth(w http.ResponseWriter, health answer, well bool, count *compbasemetrics.CounterVec) {
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

// nodeHealth decides whether our node should get traffic from outside.
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

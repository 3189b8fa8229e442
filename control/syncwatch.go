// SPDX-License-Identifier: Apache-2.0

package control

import (
	"errors"
	"sync/atomic"
	"time"

	"k8s.io/kubernetes/pkg/proxy"
	"k8s.io/kubernetes/pkg/proxy/metrics"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/maps"
)

// syncWatch passes the results of syncs on to kube-proxy's metrics, the health, and the health
// checks of services. Before the source has synced it passes nothing on.
type syncWatch struct {
	health   *serve.Health        // nil: not served
	services *serve.ServiceHealth // nil: none
	warn     func(about string, err error)
	started  atomic.Bool        // the source has synced
	stuck    map[maps.Name]bool // by failed service: the agent's failure (true), or the objects' (false); guarded by Proxy.mu
}

func (w *syncWatch) start() {
	w.started.Store(true)
	if w.health != nil {
		w.health.Synced()
	}
}

// queued notes that a sync is to come.
func (w *syncWatch) queued() {
	if !w.started.Load() {
		return
	}
	for _, family := range plan.IPFamilies {
		metrics.SyncProxyRulesLastQueuedTimestamp.WithLabelValues(string(family)).SetToCurrentTime()
	}
	if w.health != nil {
		w.health.Queued()
	}
}

// failed notes that a service could not be written. Two services that claim one frontend are a
// fault of the objects, and make no node unhealthy.
func (w *syncWatch) failed(name maps.Name, err error) {
	if w.stuck == nil {
		w.stuck = map[maps.Name]bool{}
	}
	w.stuck[name] = !errors.Is(err, reconcile.ErrTaken)
}

// watched notes that a sync has ended. The caller holds p.mu. One sync serves both families, so
// both get its duration.
func (p *Proxy) watched(started time.Time, full bool) {
	ok := map[maps.Family]bool{maps.IPv4: true, maps.IPv6: true}
	for name := range p.watch.stuck {
		if _, failed := p.failures[name]; !failed {
			delete(p.watch.stuck, name)
		} else if p.watch.stuck[name] {
			ok[name.Family] = false
		}
	}
	for _, t := range p.trackers {
		family := plan.IPFamilies[t.family]
		t.watch.observe(string(family), started, full, ok[t.family])
		if p.watch.health != nil && ok[t.family] {
			p.watch.health.Updated(family)
		}
		if p.watch.services != nil {
			err := p.watch.services.Sync(t.family, t.checks, t.localReady)
			p.watch.warn("health check node ports, "+string(family), err)
		}
	}
}

// familyWatch is what the metrics show of one family's services.
type familyWatch struct {
	triggers []time.Time           // when the changes were made that are not in the maps yet; observe empties it
	noLocal  map[maps.Name]noLocal // the services with such a policy, as last planned; nil if there was none
	// How many of noLocal there are.
	noInternal, noExternal int
}

// noLocal says which policy leaves a service without an endpoint on this node.
type noLocal struct{ internal, external bool }

// triggered notes when the changes that are now to be written were made in the cluster.
func (w *familyWatch) triggered(r proxy.UpdateEndpointsMapResult) {
	for _, times := range r.LastChangeTriggerTimes {
		w.triggers = append(w.triggers, times...)
	}
}

func (w *familyWatch) planned(svc plan.Service) {
	var n noLocal
	for _, f := range svc.Frontends {
		if f.Kind == maps.ClusterIP {
			n.internal = n.internal || f.Internal.Drop
		} else {
			n.external = n.external || f.External.Drop
		}
	}
	w.forget(svc.Name)
	if n == (noLocal{}) {
		return
	}
	if w.noLocal == nil {
		w.noLocal = map[maps.Name]noLocal{}
	}
	w.noLocal[svc.Name] = n
	w.count(n, 1)
}

// forget drops a service that is gone.
func (w *familyWatch) forget(name maps.Name) {
	if n, known := w.noLocal[name]; known {
		delete(w.noLocal, name)
		w.count(n, -1)
	}
}

func (w *familyWatch) count(n noLocal, by int) {
	if n.internal {
		w.noInternal += by
	}
	if n.external {
		w.noExternal += by
	}
}

// observe sets kube-proxy's metrics at the end of a sync.
func (w *familyWatch) observe(family string, started time.Time, full, ok bool) {
	took := metrics.SinceInSeconds(started)
	metrics.SyncProxyRulesLatency.WithLabelValues(family).Observe(took)
	if full {
		metrics.SyncFullProxyRulesLatency.WithLabelValues(family).Observe(took)
	} else {
		metrics.SyncPartialProxyRulesLatency.WithLabelValues(family).Observe(took)
	}
	metrics.SyncProxyRulesNoLocalEndpointsTotal.WithLabelValues("internal", family).Set(float64(w.noInternal))
	metrics.SyncProxyRulesNoLocalEndpointsTotal.WithLabelValues("external", family).Set(float64(w.noExternal))
	if !ok {
		return
	}
	metrics.SyncProxyRulesLastTimestamp.WithLabelValues(family).SetToCurrentTime()
	for _, t := range w.triggers {
		metrics.NetworkProgrammingLatency.WithLabelValues(family).Observe(metrics.SinceInSeconds(t))
	}
	w.triggers = w.triggers[:0]
}

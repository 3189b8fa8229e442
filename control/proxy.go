// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"errors"
	stdmaps "maps"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/waggle-lb/waggle/control/drift"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/control/reconcile"
	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

// retryAfter is when what failed is tried again, if nothing else happens before.
const retryAfter = 2 * time.Second

// Proxy is the sink of a source: it plans what has changed, and the reconciler writes it to the maps.
type Proxy struct {
	log        *logrus.Entry
	reconciler *reconcile.Reconciler // guarded by mu
	served     served                // set before the source runs
	wake       chan struct{}         // has one element if a sync is due
	onSync     func()                // called without mu
	onNode     func(*v1.Node)        // called without mu
	pace       Pace                  // set before Run
	slice      time.Duration         // for how long a look at the maps keeps others waiting
	watch      *syncWatch            // set before the source runs
	repairs    *drift.Tally

	mu       sync.Mutex           // guards what follows, and the reconciler
	node     plan.Node            // Name is set at once; the rest when OnNode, SetNodeIPs and SetAssigned have set it
	nodeSeen bool                 // our Node object was delivered
	trackers []*tracker           // one for each of maps.Families
	full     bool                 // the next sync plans everything again
	synced   bool                 // the source has delivered everything once; before that, sync does nothing
	failures map[maps.Name]string // messages of what the last sync could not write; the next one tries again
	gone     map[maps.Name]bool   // in the maps, but no service port any more; until they are deleted
	others   othersServices       // the services that other proxies serve
	othersIn bool                 // the reconciler has the present others
	nodeIn   bool                 // the reconciler has the present cluster IPs that the node holds
	cidrs    []netip.Prefix       // service CIDRs, as last delivered
	cidrsErr string               // why some of them are not in force; "" if all are
	lastSync time.Time            // end of the last sync; zero before the first
	unserved unservedNodePorts

	events serviceEvents // guarded by mu
}

// NewProxy makes a Proxy for the named node. It calls onNode with each change of our Node object,
// and with nil if the source has none when it has synced. It calls onSync after each sync.
func NewProxy(nodeName string, r *reconcile.Reconciler, onNode func(*v1.Node), onSync func(), log *logrus.Entry) *Proxy {
	p := &Proxy{
		log:        log,
		reconciler: r,
		wake:       make(chan struct{}, 1),
		onSync:     onSync,
		onNode:     onNode,
		pace:       DefaultPace,
		slice:      500 * time.Microsecond,
		watch:      &syncWatch{},
		repairs:    drift.NewTally(reconcile.RepairedMaps...),
		node:       plan.Node{Name: nodeName},
		others:     othersServices{},
		failures:   map[maps.Name]string{},
		gone:       map[maps.Name]bool{},
	}
	for _, family := range maps.Families {
		p.trackers = append(p.trackers, newTracker(family, nodeName))
	}
	return p
}

// OnService is part of source.Sink.
func (p *Proxy) OnService(old, new *v1.Service) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.others.follow(p.served, old, new) {
		p.othersIn = false
		p.poke()
	}
	old, new = ours(p.served, old), ours(p.served, new)
	if old == nil && new == nil {
		return
	}
	p.events.follow(old, new)
	for _, t := range p.trackers {
		t.services.Update(old, new)
	}
	p.poke()
}

// OnEndpointSlice is part of source.Sink.
func (p *Proxy) OnEndpointSlice(old, new *discovery.EndpointSlice) {
	old, new = ours(p.served, old), ours(p.served, new)
	if old == nil && new == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.trackers {
		if new != nil {
			t.slice(new, false)
		} else {
			t.slice(old, true)
		}
	}
	p.poke()
}

// OnNode is part of source.Sink. Only our own Node matters.
func (p *Proxy) OnNode(_, new *v1.Node) {
	if new == nil || new.Name != p.node.Name {
		return
	}
	p.mu.Lock()
	p.nodeSeen = true
	if !stdmaps.Equal(p.node.Labels, new.Labels) {
		p.node.Labels = new.Labels
		p.full = true
	}
	p.mu.Unlock()
	p.onNode(new)
	p.poke()
}

// SetNodeIPs sets the node's primary addresses.
func (p *Proxy) SetNodeIPs(ips []netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Equal(p.node.IPs, ips) {
		return
	}
	p.node.IPs = ips
	p.full = true
	p.poke()
}

// OnServiceCIDRs is part of source.Sink. An empty list: the ranges of cluster IPs are not known.
func (p *Proxy) OnServiceCIDRs(cidrs []netip.Prefix) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cidrs = cidrs
	p.nodeIn = false
	p.poke()
}

// OnSynced is part of source.Sink.
func (p *Proxy) OnSynced() {
	p.mu.Lock()
	p.synced = true
	p.full = true
	p.watch.start()
	nodeSeen := p.nodeSeen
	p.mu.Unlock()
	if !nodeSeen {
		p.onNode(nil)
	}
	p.poke()
}

func (p *Proxy) poke() {
	p.watch.queued()
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// Run syncs when something has changed, until ctx is done.
func (p *Proxy) Run(ctx context.Context) {
	repair := time.NewTicker(p.pace.Repair)
	defer repair.Stop()
	for {
		var retry <-chan time.Time
		if p.unfinished() {
			retry = time.After(retryAfter)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
			p.settle(ctx)
		case <-retry:
		case <-repair.C:
			p.repair(ctx)
		}
		p.sync()
	}
}

func (p *Proxy) unfinished() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.failures) > 0
}

// sync plans and writes what has changed. Before the source has synced it does nothing, and above
// all deletes nothing: what an earlier run left in the maps goes on working.
func (p *Proxy) sync() {
	p.mu.Lock()
	if !p.synced {
		p.mu.Unlock()
		return
	}
	p.watch.queued()
	started, full := time.Now(), p.full
	due, gone := p.changes()
	p.leaveToNode() // first: packets to an address whose frontends go must not be refused
	p.apply(due, gone)
	p.setServiceCIDRs() // last: other addresses in them are dropped, so the cluster IPs must be in force
	p.reconciler.Collect()
	p.lastSync = time.Now()
	p.watched(started, full)
	p.mu.Unlock()

	if len(due)+len(gone) > 0 {
		p.log.WithFields(logrus.Fields{"applied": len(due), "deleted": len(gone),
			"took": time.Since(started).Round(time.Microsecond)}).Debug("synced")
	}
	p.onSync()
}

// servicePort is one that is to be planned and written.
type servicePort struct {
	*tracker
	name proxy.ServicePortName
	id   maps.Name
}

// changes finds out what is due: what has changed, what failed before or, on a full pass,
// everything; and the names in the maps that no service port has any more.
func (p *Proxy) changes() (due []servicePort, gone []maps.Name) {
	for _, t := range p.trackers {
		t.update()
		if p.full {
			t.allDirty()
		}
	}
	if p.full {
		p.gone = map[maps.Name]bool{}
		for _, id := range p.reconciler.Services() {
			p.gone[id] = true // unless it turns out to be due
		}
	}
	p.full = false
	p.retryFailed()
	due = p.takeDirty()
	for id := range p.gone {
		if p.reconciler.Has(id) {
			gone = append(gone, id)
			continue
		}
		delete(p.gone, id)
		delete(p.failures, id)
	}
	return due, gone
}

// takeDirty returns the service ports that are dirty, and notes those that are gone.
func (p *Proxy) takeDirty() (due []servicePort) {
	for _, t := range p.trackers {
		for name := range t.dirty {
			id := plan.NameOf(name, t.family)
			if _, alive := t.svcMap[name]; alive {
				due = append(due, servicePort{t, name, id})
				delete(p.gone, id)
				continue
			}
			t.watch.forget(id)
			delete(p.unserved.all, id)
			p.gone[id] = true
		}
		if len(t.dirty) > 0 {
			t.dirty = map[proxy.ServicePortName]bool{} // not cleared: it may have been large
		}
	}
	return due
}

// retryFailed adds the service ports that failed, if they still exist.
func (p *Proxy) retryFailed() {
	for id := range p.failures {
		for _, t := range p.trackers {
			if t.family == id.Family {
				t.dirty[plan.PortName(id)] = true
			}
		}
	}
}

func (p *Proxy) apply(due []servicePort, gone []maps.Name) {
	p.reconciler.Leave(gone) // before Apply, which may take their frontends over
	for _, port := range due {
		svc := port.plan(port.name, p.node)
		port.watch.planned(svc)
		p.checkNodePort(svc)
		p.result(svc.Name, p.reconciler.Apply(svc))
	}
	for _, name := range gone {
		p.result(name, p.reconciler.Delete(name))
	}
	// A frontend may have been freed by a service that came later in the list.
	for _, port := range due {
		if _, failed := p.failures[port.id]; failed {
			p.result(port.id, p.reconciler.Apply(port.plan(port.name, p.node)))
		}
	}
}

// setServiceCIDRs guards the service CIDRs except the cluster IPs of other proxies, and logs a new failure.
func (p *Proxy) setServiceCIDRs() {
	var err error
	if !p.othersIn {
		err = p.reconciler.SetOthersClusterIPs(p.others.clusterIPs())
		p.othersIn = err == nil
	}
	message := ""
	if err := errors.Join(err, p.reconciler.SetServiceCIDRs(p.cidrs)); err != nil {
		message = err.Error()
	}
	if message != "" && message != p.cidrsErr {
		p.log.Warn(message)
	}
	p.cidrsErr = message
}

// result keeps failures, and logs each only when it is new.
func (p *Proxy) result(name maps.Name, err error) {
	if err == nil {
		delete(p.failures, name)
		return
	}
	p.watch.failed(name, err)
	if p.failures[name] != err.Error() {
		level := logrus.ErrorLevel
		if errors.Is(err, reconcile.ErrTaken) {
			level = logrus.WarnLevel
		}
		p.log.Log(level, err)
		p.events.warn(name, reasonNotServed, err.Error())
	}
	p.failures[name] = err.Error()
}

// repair looks at all maps. All other work goes first.
func (p *Proxy) repair(ctx context.Context) {
	p.mu.Lock()
	defer p.mu.Unlock()
	since := time.Now()
	found, err := p.reconciler.Repair(func() {
		if time.Since(since) < p.slice {
			return
		}
		p.mu.Unlock()
		p.giveWay(ctx)
		p.mu.Lock()
		since = time.Now()
	})
	if err != nil {
		p.log.WithError(err).Error("repairing the maps")
	}
	p.repairs.Add(found, p.log)
}

// pauses returns a function for long loops over the services that hold p.mu: called in each round, it lets
// changes through now and then.
func (p *Proxy) pauses() func() {
	since := time.Now()
	return func() {
		if time.Since(since) < p.slice {
			return
		}
		p.mu.Unlock()
		runtime.Gosched() // to the goroutine that waits for the lock
		p.mu.Lock()
		since = time.Now()
	}
}

// EachFrontend is part of node.Services.
func (p *Proxy) EachFrontend(fn func(maps.Frontend, maps.Kind)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reconciler.EachFrontend(fn, p.pauses())
}

// EachBackend is part of node.Services.
func (p *Proxy) EachBackend(fn func(maps.Backend)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reconciler.EachBackend(fn, p.pauses())
}

// Sample is part of canary.Services.
func (p *Proxy) Sample() (reconcile.Sample, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reconciler.Sample()
}

// SampleOf is part of canary.Services.
func (p *Proxy) SampleOf(s reconcile.Sample) (reconcile.Sample, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.reconciler.SampleOf(s.Frontend)
}

// localReady reports whether a Service has a ready endpoint on this node, by what is in force now.
func (p *Proxy) localReady(name types.NamespacedName) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, t := range p.trackers {
		if t.localReady[name] > 0 {
			return true
		}
	}
	return false
}

// families returns the families that there are services of.
func (p *Proxy) families() node.Families {
	p.mu.Lock()
	defer p.mu.Unlock()
	services := p.reconciler.Size().Services
	return node.Families{IPv4: services[maps.IPv4] > 0, IPv6: services[maps.IPv6] > 0}
}

// size is how much is in force, for the metrics.
func (p *Proxy) size() serve.Size {
	p.mu.Lock()
	defer p.mu.Unlock()
	size := p.reconciler.Size()
	return serve.Size{
		Synced:   p.synced,
		Failures: len(p.failures) + len(p.unserved.all),
		Services: size.Services, Frontends: size.Frontends, Backends: size.Backends,
	}
}

// giveWay syncs if something has changed.
func (p *Proxy) giveWay(ctx context.Context) {
	select {
	case <-p.wake:
		p.settle(ctx)
		p.sync()
	default:
		runtime.Gosched() // to the goroutine that waits for the lock
	}
}

// Status reports the state of the last sync.
func (p *Proxy) Status() status.Proxy {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := status.Proxy{Synced: p.synced, LastSync: p.lastSync, Services: p.reconciler.Len()}
	for _, message := range p.failures {
		s.Failures = append(s.Failures, message)
	}
	for _, message := range p.unserved.all {
		s.Failures = append(s.Failures, message)
	}
	if p.cidrsErr != "" {
		s.Failures = append(s.Failures, p.cidrsErr)
	}
	slices.Sort(s.Failures)
	return s
}

// SPDX-License-Identifier: Apache-2.0

package control

import (
	"hash/maphash"
	stdmaps "maps"

	discovery "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kubernetes/pkg/proxy"

	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// shards is the number of kube-proxy's trackers of endpoints for each family. To collect the
// changes, a tracker walks over all its services, so each has few of them.
const shards = 256

// tracker follows the services and endpoints of one family with kube-proxy's own library. What it
// takes to follow a change doesn't depend on how many services there are.
//
// Proxy.mu guards it. The sink's calls fill the library's trackers; update moves the changes to the other maps,
// which are those of the last update between two syncs.
type tracker struct {
	family    maps.Family
	services  *proxy.ServiceChangeTracker
	endpoints [shards]*proxy.EndpointsChangeTracker // by hash of the service's name, with seed
	seed      maphash.Seed
	changed   map[*proxy.EndpointsChangeTracker]bool // those with changes since the last update

	svcMap     proxy.ServicePortMap                 // all service ports
	epMap      map[proxy.ServicePortName][]endpoint // all endpoints; may come before their service, and stay after it
	dirty      map[proxy.ServicePortName]bool       // to be planned again; takeDirty empties it
	checks     map[types.NamespacedName]uint16      // svcMap.HealthCheckNodePorts()
	localReady map[types.NamespacedName]int         // number of ready endpoints on this node
	watch      familyWatch
}

func newTracker(family maps.Family, nodeName string) *tracker {
	t := &tracker{
		family:     family,
		seed:       maphash.MakeSeed(),
		changed:    map[*proxy.EndpointsChangeTracker]bool{},
		svcMap:     proxy.ServicePortMap{},
		epMap:      map[proxy.ServicePortName][]endpoint{},
		dirty:      map[proxy.ServicePortName]bool{},
		checks:     map[types.NamespacedName]uint16{},
		localReady: map[types.NamespacedName]int{},
	}
	ipFamily := plan.IPFamilies[family]
	t.services = proxy.NewServiceChangeTracker(ipFamily, plan.NewPort, t.servicesChange)
	for i := range t.endpoints {
		t.endpoints[i] = proxy.NewEndpointsChangeTracker(ipFamily, nodeName, nil, t.endpointsChange)
	}
	return t
}

// servicesChange gets all ports of one service, before and after a change.
func (t *tracker) servicesChange(previous, current proxy.ServicePortMap) {
	for name := range previous {
		t.dirty[name] = true
		delete(t.checks, name.NamespacedName)
	}
	for name := range current {
		t.dirty[name] = true
	}
	stdmaps.Copy(t.checks, current.HealthCheckNodePorts())
}

// endpointsChange gets all endpoints of one service, before and after a change.
func (t *tracker) endpointsChange(previous, current proxy.EndpointsMap) {
	for name := range previous {
		t.dirty[name] = true
		delete(t.localReady, name.NamespacedName)
		delete(t.epMap, name)
	}
	for name, endpoints := range current {
		t.dirty[name] = true
		t.epMap[name] = compact(endpoints)
	}
	stdmaps.Copy(t.localReady, current.LocalReadyEndpoints())
}

// slice takes a change of a slice, or its removal.
func (t *tracker) slice(s *discovery.EndpointSlice, removed bool) {
	service := types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discovery.LabelServiceName]}
	shard := t.endpoints[maphash.Comparable(t.seed, service)%shards]
	if shard.EndpointSliceUpdate(s, removed) {
		t.changed[shard] = true
	}
}

// update collects the changes, and notes in dirty what may have to be planned again.
func (t *tracker) update() {
	t.svcMap.Update(t.services)
	for shard := range t.changed {
		t.watch.triggered(proxy.EndpointsMap{}.Update(shard)) // endpointsChange keeps them
	}
	clear(t.changed)
}

// allDirty marks everything, so that it is planned again.
func (t *tracker) allDirty() {
	for name := range t.svcMap {
		t.dirty[name] = true
	}
}

// plan computes the desired state of one service port, which must exist.
func (t *tracker) plan(name proxy.ServicePortName, node plan.Node) plan.Service {
	return plan.Plan(name, t.family, t.svcMap[name], forLibrary(t.epMap[name]), node)
}

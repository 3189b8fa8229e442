// SPDX-License-Identifier: Apache-2.0

// Package source defines the interface between a source of Kubernetes objects and its consumer, so
// that a directory of YAML can replace an API server.
package source

import (
	"context"
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/client-go/tools/events"

	"github.com/waggle-lb/waggle/control/pools"
	"github.com/waggle-lb/waggle/control/status"
)

// Sink receives the changes of objects. A nil old object means an addition, a nil new one a
// deletion. Calls come one at a time, in the order of the changes, and the receiver must not
// modify the objects.
type Sink interface {
	OnService(old, new *v1.Service)
	OnEndpointSlice(old, new *discovery.EndpointSlice)
	OnNode(old, new *v1.Node)
	// OnServiceCIDRs replaces the ranges that cluster IPs are allocated from. An empty list:
	// they are not known.
	OnServiceCIDRs(prefixes []netip.Prefix)
	// OnSynced notes that the source has delivered everything that exists. It is called once.
	OnSynced()
}

// Source delivers objects to a Sink.
type Source interface {
	// Run delivers objects until ctx is done. It returns an error only if the source can't work
	// at all; a fault of a single object is a status.Problem.
	Run(ctx context.Context, sink Sink) error
	// Problems lists what is wrong with the objects now. It may be called at any time.
	Problems() []status.Problem
}

// Ahead is a Source that can fetch what exists before there is a Sink: an API server's lists take a while
// to arrive and to be decoded.
type Ahead interface {
	// FetchAhead begins to fetch, and returns at once. Run continues with the result, and reports failures.
	// Call it at most once, before Run. The fetching ends with ctx or with Run.
	FetchAhead(ctx context.Context)
}

// Watcher is a Source that may lose the connection to what it follows, such as an API server. What
// it delivered stays in force meanwhile.
type Watcher interface {
	// Blind returns since when the source may miss changes, and why; the zero time if all is
	// well. It may be called at any time.
	Blind() (since time.Time, why string)
}

// Located is a Source at a remote place, such as an API server.
type Located interface {
	// Location returns, for messages, the source's address and the setting that gives it. It may
	// be called at any time.
	Location() string
}

// Recorder is a Source with a place for events on objects, as `kubectl describe` shows them.
type Recorder interface {
	// Recorder returns a recorder that never blocks, and drops events that can't be delivered.
	Recorder() events.EventRecorder
}

// Keeper is a Source that may keep Services in force that are gone, because it suspects a failure
// of what it reads from.
type Keeper interface {
	// Held lists them as namespace/name, sorted. It may be called at any time.
	Held() []string
}

// Held lists the Services that a source holds, if it is a Keeper.
func Held(src Source) []string {
	if k, ok := src.(Keeper); ok {
		return k.Held()
	}
	return nil
}

// Addresser is a Source that follows pools of load balancer addresses.
type Addresser interface {
	// Addresses lists the addresses of pools that Services have, in order. It may be called at any time.
	Addresses() []status.Address
	// Pools returns the pools; nil: they are not known, or the source does not follow pools. An announcer of
	// addresses uses it: [pools.Set.Find] leads from an address to its pool.
	Pools() *pools.Set
}

// Announcing is an Addresser that knows what else announces addresses, and where other agents are, as a cluster does.
type Announcing interface {
	// Announcing says which other programs announce addresses from this node, for people, by the kind of documents that they go
	// by. known: it has been looked for. It may be called at any time.
	Announcing() (others map[string]string, known bool)
	// Agents lists the addresses of the agents that there are, this one's included once it is known to others.
	Agents(ctx context.Context) ([]netip.Addr, error)
}

// Notifier is an Addresser that says when documents have changed.
type Notifier interface {
	// Notify has a function called whenever what Pools or Announcing return may have changed. It is to be called before Run.
	Notify(changed func())
}

// Addresses lists the addresses of pools that Services have, if the source follows pools.
func Addresses(src Source) (addresses []status.Address, follows bool) {
	if a, ok := src.(Addresser); ok && a.Pools() != nil {
		return a.Addresses(), true
	}
	return nil, false
}

// Noticer is a Source with notices: good to know, but no problem.
type Noticer interface {
	// Notices may be called at any time.
	Notices() []string
}

// Notices lists a source's notices, if it is a Noticer.
func Notices(src Source) []string {
	if n, ok := src.(Noticer); ok {
		return n.Notices()
	}
	return nil
}

// UpdateSlice delivers a slice that changes its family or its Service as a deletion and an
// addition. kube-proxy's trackers store slices by these, and would keep the old one forever. The
// API server allows no change of the family, but a slice may be deleted and made again while no
// watch runs.
func UpdateSlice(sink Sink, old, new *discovery.EndpointSlice) {
	const service = discovery.LabelServiceName
	if old.AddressType == new.AddressType && old.Labels[service] == new.Labels[service] {
		sink.OnEndpointSlice(old, new)
		return
	}
	sink.OnEndpointSlice(old, nil)
	sink.OnEndpointSlice(nil, new)
}

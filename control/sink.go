// SPDX-License-Identifier: Apache-2.0

package control

import (
	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/takeover"
)

// sink is the proxy as the source sees it. It informs other parts that must know of a change before the proxy does.
type sink struct {
	*Proxy
	nodeName string
	health   *serve.Health
	takeover *takeover.Takeover

	announcing *announcing
}

// OnService is part of source.Sink.
func (s sink) OnService(old, new *v1.Service) {
	s.announcing.onService(s.served.takes, old, new)
	s.Proxy.OnService(old, new)
}

// OnNode is part of source.Sink. The health follows our Node object.
func (s sink) OnNode(old, new *v1.Node) {
	switch {
	case new != nil && new.Name == s.nodeName:
		s.health.SetNode(new)
	case new == nil && old != nil && old.Name == s.nodeName:
		s.health.SetNode(nil)
	}
	s.Proxy.OnNode(old, new)
}

// OnSynced is part of source.Sink.
func (s sink) OnSynced() {
	if s.health.Node() == nil {
		s.health.SetNode(&v1.Node{}) // a source without Node objects says nothing against the node
	}
	s.takeover.Begin(takeover.Publishing)
	s.Proxy.OnSynced()
}

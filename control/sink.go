// SPDX-License-Identifier: Apache-2.0

package control

import "github.com/waggle-lb/waggle/control/takeover"

// sink is the proxy as its source sees it: what must come before it hears of something comes before.
type sink struct {
	*Proxy
	takeover *takeover.Takeover
}

// OnSynced is part of source.Sink.
func (s sink) OnSynced() {
	s.takeover.Begin(takeover.Publishing)
	s.Proxy.OnSynced()
}

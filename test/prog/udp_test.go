// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestUDPLife: one answered datagram may be all, so only the client's second
// one confirms the flow.
func TestUDPLife(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		c := converse(newNode(t), v, p)
		c.request(payload(40))
		c.had(bpf.VerdictFlowOpened)
		c.request(payload(41)) // no answer yet
		c.had()
		c.standsUnconfirmed()
		c.state(0)

		c.reply(payload(500))
		c.standsUnconfirmed()
		c.state(bpf.StateAnswered)

		c.request(payload(42))
		c.had(bpf.VerdictFlowConfirmed)
		c.standsConfirmed()
		c.state(alive)
		c.reply(payload(1))
		c.request()
		c.had()
	})
}

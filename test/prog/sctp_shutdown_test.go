// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// shutdowns are the chunks that end an association.
var shutdowns = map[string]byte{
	"SHUTDOWN": sctpShutdown, "SHUTDOWN ACK": sctpShutdownAck, "SHUTDOWN COMPLETE": sctpShutdownComplete,
}

// TestSCTPShutdownUnanswered: a host without an association answers a packet of one with such a
// chunk (RFC 9260, 8.4), as it would answer any host's. This does not prove an association, so the
// client's next packet does not confirm the flow.
func TestSCTPShutdownUnanswered(t *testing.T) {
	for name, answer := range map[string]byte{
		"SHUTDOWN ACK": sctpShutdownAck, "SHUTDOWN COMPLETE": sctpShutdownComplete,
	} {
		t.Run(name, func(t *testing.T) {
			forSCTP(t, func(t *testing.T, v variant, p path) {
				for _, kind := range []byte{sctpData, sctpShutdown, sctpShutdownAck} {
					c := converse(newNode(t), v, p)
					c.request(acked, chunk(kind))
					c.had(bpf.VerdictFlowOpened)
					c.reply(flags("A"), chunk(answer))
					c.notConfirmedBy(acked, chunk(sctpData))
					c.notConfirmedBy(acked, ack(0), chunk(sctpHeartbeat))
					c.request(acked, chunk(sctpShutdownAck))
					if kind == sctpData { // the client's first such chunk, after the endpoint's
						c.had(bpf.VerdictFlowClosed)
					} else {
						c.had()
					}
					c.standsUnconfirmed()
				}
			})
		})
	}
}

// TestSCTPShutdownConfirmsNot: a packet that only ends an association does not confirm the flow,
// even with the right tag.
func TestSCTPShutdownConfirmsNot(t *testing.T) {
	for name, kind := range shutdowns {
		t.Run(name, func(t *testing.T) {
			forSCTP(t, func(t *testing.T, v variant, p path) {
				c := converse(newNode(t), v, p)
				c.request()
				c.reply()
				c.notConfirmedBy(acked, chunk(kind))
				c.request(acked)
				c.had(bpf.VerdictFlowConfirmed)

				underWay := c.again()
				underWay.request(acked, chunk(sctpData))
				underWay.reply(flags("A"), chunk(sctpData))
				underWay.notConfirmedBy(acked, chunk(kind))
			})
		})
	}
}

// notConfirmedBy expects that the client's packet does not confirm the flow.
func (c *conversation) notConfirmedBy(changes ...change) {
	c.t.Helper()
	c.request(changes...)
	c.had()
	c.standsUnconfirmed()
}

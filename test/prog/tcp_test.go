// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

const alive = bpf.StateAnswered | bpf.StateConfirmed

// TestTCPLife follows a connection from its first packet to its last, and the
// next one of the same client port.
func TestTCPLife(t *testing.T) {
	forConnected(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		handshake(c)
		c.request(acked, flags("AP"), payload(333))
		c.reply(flags("A"), seq(backendSeq+1), ack(clientSeq+334), payload(1400))
		c.had()
		closeBothWays(c)
		reopen(c)
	})
}

func handshake(c *conversation) {
	c.t.Helper()
	c.request(tcpOptions)
	c.had(bpf.VerdictFlowOpened)
	c.standsUnconfirmed()
	c.state(0)

	c.reply(tcpOptions)
	c.had()
	c.standsUnconfirmed()
	c.state(bpf.StateAnswered)

	c.request(acked)
	c.had(bpf.VerdictFlowConfirmed)
	c.standsConfirmed()
	c.state(alive)
}

func closeBothWays(c *conversation) {
	c.t.Helper()
	c.request(acked, flags("FA"))
	c.had()
	c.state(alive | bpf.StateFinClient)
	c.reply(flags("A"))
	c.state(alive | bpf.StateFinClient)
	c.reply(flags("FA"))
	c.had(bpf.VerdictFlowClosed)
	c.state(alive | bpf.StateFinClient | bpf.StateFinBackend)
	c.request(acked) // the last ACK still belongs to it
	c.had()
	c.standsConfirmed()
}

// reopen: the client uses its port again. With SNAT the backend must not see
// the same source, which may be in its TIME_WAIT. Without SNAT the client is
// responsible, as without waggle.
func reopen(c *conversation) {
	c.t.Helper()
	old := *c
	c.forget()
	c.request()
	c.had(bpf.VerdictFlowOpened)
	c.state(0)
	if c.snat == (c.source == old.source) {
		c.t.Errorf("source %v again: %v", old.source, c.source)
	}
	if c.snat {
		old.reply(flags("FA")) // a late one: the old half still exists
	}
	c.reply()
	c.request(acked)
	c.had(bpf.VerdictFlowConfirmed)
	c.standsConfirmed()
}

func TestTCPReset(t *testing.T) {
	for name, send := range map[string]func(*conversation, ...change) packet{
		"client": (*conversation).request, "backend": (*conversation).reply,
	} {
		t.Run(name, func(t *testing.T) {
			forConnected(t, func(t *testing.T, v variant, p path) {
				c := converse(newNode(t), v, p)
				c.establish()
				send(c, flags("RA"))
				c.had(bpf.VerdictFlowClosed)
				c.state(alive | bpf.StateReset)
				send(c, flags("RA"))
				c.had() // it is closed already
				reopen(c)
			})
		})
	}
}

// TestTCPRefusedByBackend: a reset in answer to the SYN closes a flow that was
// never confirmed.
func TestTCPRefusedByBackend(t *testing.T) {
	forConnected(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		c.reply(flags("RA"), seq(0))
		c.had(bpf.VerdictFlowClosed)
		c.state(bpf.StateReset)
		c.forget()
		c.request()
		c.had(bpf.VerdictFlowOpened)
		c.state(0)
	})
}

// TestTCPRetransmittedSYN: the repeated SYN goes to the same backend from the
// same port.
func TestTCPRetransmittedSYN(t *testing.T) {
	forConnected(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		for range 5 {
			c.serve(v, at(v.any(), nodePort), c.backend, at(v.far2, backendPort))
			c.request()
			c.had()
		}
		c.reply()
		c.request() // the SYN-ACK was lost
		c.had()
		c.standsUnconfirmed()
	})
}

// TestTCPUnprovenACK: a client that has not seen the SYN-ACK can't know the
// number to acknowledge, so a flood of SYNs and ACKs confirms nothing.
func TestTCPUnprovenACK(t *testing.T) {
	wrong := [][]change{
		{acked, ack(backendSeq)},                           // behind
		{acked, ack((backendSeq + 1 + 1<<16) % (1 << 32))}, // too far ahead
		{acked, ack(1 << 31)},
		{acked, flags("P")},
		{acked, flags("SA")},
		{acked, flags("RA")}, // the last: it closes the flow
	}
	forTCP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		c.request(acked) // before any SYN-ACK
		c.standsUnconfirmed()
		c.reply()
		for i, changes := range wrong {
			c.request(changes...)
			if i == len(wrong)-1 {
				c.had(bpf.VerdictFlowClosed)
			} else {
				c.had()
			}
			c.standsUnconfirmed()
		}
	})
}

// TestTCPLateACK: the first ACK that the node sees may acknowledge data as
// well.
func TestTCPLateACK(t *testing.T) {
	forTCP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		c.reply()
		c.reply(flags("A"), seq((backendSeq+1)%(1<<32)), payload(900))
		c.request(acked, ack((backendSeq+901)%(1<<32)), payload(7))
		c.had(bpf.VerdictFlowConfirmed)
		c.standsConfirmed()
	})
}

// TestRow34Stray: a packet of no known connection is translated like the first
// packet of one, so that its refusal comes from the address that the client
// used. So are later packets from the backend.
func TestRow34Stray(t *testing.T) {
	for name, what := range map[string]string{"ACK": "A", "data": "AP", "FIN": "FA", "SYN-ACK": "SA"} {
		t.Run(name, func(t *testing.T) {
			forTCP(t, func(t *testing.T, v variant, p path) {
				c := converse(newNode(t), v, p)
				c.request(acked, flags(what), payload(9))
				c.had(bpf.VerdictFlowOpened)
				c.reply(flags("R"))
				c.had(bpf.VerdictFlowClosed)
				c.reply(flags("RA"))
				c.had()
			})
		})
	}
}

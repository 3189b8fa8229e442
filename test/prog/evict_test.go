// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// eviction is a record of a flow that is lost, and what restores it.
type eviction struct {
	name   string
	before func(*conversation)
	lose   int // of conversation.keys
	repair func(*conversation)
}

const clientHalf, replyHalf, splitHalf = 0, 1, 2

var evictions = []eviction{
	{"reply, unanswered", opened, replyHalf, clientSpeaks},
	{"reply, answered", answered, replyHalf, clientSpeaks},
	{"client, unanswered", opened, clientHalf, backendSpeaks},
	{"client, answered", answered, clientHalf, backendSpeaks},
	{"client, answered twice", answered, clientHalf, backendGoesOn},
	{"egress, unanswered", opened, splitHalf, clientSpeaks},
	{"egress, answered", answered, splitHalf, clientSpeaks},
}

// forEachEviction plays each eviction of the records that a path's flows have.
func forEachEviction(t *testing.T, halves int, test func(*testing.T, eviction)) {
	for _, e := range evictions {
		if e.lose < halves {
			t.Run(e.name, func(t *testing.T) { test(t, e) })
		}
	}
}

// TestEvictedHalf: any record of an unconfirmed flow may be replaced at any time. The remaining
// records restore the lost one as it was.
func TestEvictedHalf(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		forEachEviction(t, p.halves, func(t *testing.T, e eviction) { e.play(converse(newNode(t), v, p)) })
	})
}

// play expects the flow to be restored, and to go on.
func (e eviction) play(c *conversation) {
	c.t.Helper()
	e.before(c)
	c.restored(e.lose, e.repair)
	c.reply()
	c.request(acked)
	c.standsConfirmed()
}

func opened(c *conversation)        { c.request() }
func clientSpeaks(c *conversation)  { c.request() }
func answered(c *conversation)      { c.request(); c.reply() }
func backendSpeaks(c *conversation) { c.reply() }
func backendGoesOn(c *conversation) { c.reply(flags("AP"), seq((backendSeq+1)%(1<<32)), payload(10)) }

// restored expects that the record exists again after the repair.
func (c *conversation) restored(lost int, repair func(*conversation)) {
	c.t.Helper()
	k := c.keys()[lost]
	was := c.get(k)
	c.remove(k)
	repair(c)
	is := c.get(k)
	equal(c.t, "source", was.src, is.src)
	equal(c.t, "destination", was.dst, is.dst)
	equal(c.t, "flags", was.Flags, is.Flags)
	equal(c.t, "service", was.Service, is.Service)
	equal(c.t, "backend", was.Backend, is.Backend)
}

// TestEvictedAndTaken: a lost half must not replace another flow's record, confirmed or not. The
// flow that lost it starts anew.
func TestEvictedAndTaken(t *testing.T) {
	for name, step := range map[string]func(*conversation){"half-open": open, "established": establish} {
		t.Run(name, func(t *testing.T) {
			forEach(t, func(t *testing.T, v variant) {
				onePort := newNode(t, variable("snat_min", uint16(50000)), variable("snat_max", uint16(50000)))
				loser := converse(onePort, v, sameDevice)
				loser.request()
				loser.remove(loser.replyKey())
				winner := loser.again()
				step(winner)
				equal(t, "source", loser.source, winner.source)

				if name == "established" {
					loser.xdp(front, loser.packet(loser.client, loser.frontend)).dropped(bpf.VerdictDropSNATExhausted)
					equal(t, "records", winner.halves, loser.size(v)) // its old one is useless
				} else { // each may take an unconfirmed record
					loser.forget()
					loser.request()
					loser.had(bpf.VerdictFlowOpened)
					winner.forget()
					winner.request()
					winner.had(bpf.VerdictFlowOpened)
				}
				winner.reply()
				winner.request(acked)
				winner.standsConfirmed()
			})
		})
	}
}

// TestEvictedAndReopened: if the client's half of a flow was replaced by another flow's, an answer
// to the old flow does not affect the other one.
func TestEvictedAndReopened(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !p.snat {
			t.Skip("without SNAT the new flow takes both halves over")
		}
		c := converse(newNode(t), v, p)
		c.request()
		c.remove(c.clientKey())
		old := *c
		for c.source == old.source { // one port in 16384
			c.forget()
			c.request()
		}
		old.reply()
		equal(t, "state", 0, c.get(c.clientKey()).state())
		c.request(acked)
		c.had()
		c.standsUnconfirmed()
	})
}

// TestEvictedAndAcknowledged: a client's half that an answer restored from the backend's half is
// confirmed by the acknowledgement of that answer.
func TestEvictedAndAcknowledged(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		answered(c)
		c.remove(c.clientKey())
		if v.isTCP() {
			backendGoesOn(c)
		} else {
			c.reply()
		}
		c.request(acked)
		c.had(bpf.VerdictFlowConfirmed)
		c.standsConfirmed()
	})
}

// TestEvictedAndClosed: a half that a FIN restored has the state of the FIN, too.
func TestEvictedAndClosed(t *testing.T) {
	forTCP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		answered(c)
		c.remove(c.clientKey())
		c.reply(flags("FA"))
		c.state(bpf.StateAnswered | bpf.StateFinBackend)
	})
}

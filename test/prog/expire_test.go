// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// expire walks a family's flows, and releases the dead ones.
func (n *node) expire(v variant) (census bpf.Census) {
	n.t.Helper()
	return n.walk(v, 1)
}

// walk counts a family's records, and releases the dead ones if release is set.
func (n *node) walk(v variant, release uint32) (census bpf.Census) {
	n.t.Helper()
	return n.runCensus(v, bpf.Census{Release: release})
}

// runCensus is a walk as it was asked for; what it was asked is not in what is returned.
func (n *node) runCensus(v variant, ask bpf.Census) (census bpf.Census) {
	n.t.Helper()
	opts := &ebpf.RunOptions{Context: ask, ContextOut: &census}
	if _, err := n.program(family("waggle_expire", v.client)).Run(opts); err != nil {
		n.t.Fatal(err)
	}
	census.Release, census.Pass = 0, 0
	return census
}

// census walks twice. The first walk releases nothing.
func (c *conversation) census(want bpf.Census) {
	c.t.Helper()
	equal(c.t, "census", want, c.walk(c.variant, 0))
	equal(c.t, "records", int(want.Confirmed+want.Unconfirmed+want.Dead), c.size(c.variant))
	equal(c.t, "census", want, c.expire(c.variant))
	equal(c.t, "records", int(want.Confirmed+want.Unconfirmed), c.size(c.variant))
}

// TestExpire: a flow expires as a whole, and not while either half is fresh.
func TestExpire(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.census(bpf.Census{})
		c.establish()
		other := c.again()
		other.establish()
		flow := uint32(p.halves)
		c.census(bpf.Census{Confirmed: 2 * flow})

		// Either half keeps the other. (A packet that uses a split flow's third
		// record uses the client's, too.)
		all, clients := []int{0, 1, 2}[:p.halves], []int{0, 2}
		for _, fresh := range [][]int{clients[:p.halves-1], {1}} {
			c.age(all...)
			c.ageBy(0, fresh...)
			c.census(bpf.Census{Confirmed: 2 * flow})
		}
		c.age(all...)
		c.census(bpf.Census{Confirmed: flow, Dead: flow})
		other.standsConfirmed()
		other.age(all...)
		c.census(bpf.Census{Dead: flow})
	})
}

// TestExpireUnconfirmed: unconfirmed flows expire likewise.
func TestExpireUnconfirmed(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		other := c.again()
		other.establish()
		flow := uint32(p.halves)
		c.census(bpf.Census{Confirmed: flow, Unconfirmed: flow})
		c.age([]int{0, 1, 2}[:p.halves]...)
		c.census(bpf.Census{Confirmed: flow, Dead: flow})
		other.standsConfirmed()
	})
}

// TestExpireOrphan: a split flow's third record is released with the others,
// however fresh it is: alone it would be useless.
func TestExpireOrphan(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, split)
		c.establish()
		c.remove(c.clientKey())
		c.remove(c.replyKey())
		c.census(bpf.Census{Dead: 1})
	})
}

// TestExpireReopened: a new flow that has taken the client's half of an old
// flow does not keep the old reply half.
func TestExpireReopened(t *testing.T) {
	forTCP(t, func(t *testing.T, v variant, p path) {
		if !p.snat {
			t.Skip("without SNAT the new flow takes both halves over")
		}
		c := converse(newNode(t), v, p)
		c.establish()
		c.request(acked, flags("FA"))
		c.reply(flags("FA"))
		old := *c
		c.forget()
		c.establish()
		c.census(bpf.Census{Confirmed: uint32(2*c.halves - 1)})
		for _, k := range old.keys()[1:] {
			old.alter(k, func(r *record) { r.LastSeen = c.jiffies() - longest })
		}
		equal(t, "dead", uint32(old.halves-1), c.expire(v).Dead)
		c.standsConfirmed()
	})
}

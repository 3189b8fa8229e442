// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// expire walks a family's flows.
func (n *node) expire(v variant) (census bpf.Census) {
	n.t.Helper()
	opts := &ebpf.RunOptions{Context: bpf.Census{}, ContextOut: &census}
	if _, err := n.program(family("waggle_expire", v.client)).Run(opts); err != nil {
		n.t.Fatal(err)
	}
	return census
}

func (c *conversation) census(live, expired int) {
	c.t.Helper()
	equal(c.t, "census", bpf.Census{Live: uint32(live), Expired: uint32(expired)}, c.expire(c.variant))
	equal(c.t, "records", live, c.size(confirmed, c.variant))
}

// TestExpire: a flow goes as a whole, and not while either half is fresh.
func TestExpire(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(withTimeouts(t), v, p)
		c.census(0, 0)
		c.establish()
		other := c.again()
		other.establish()
		c.census(2*p.halves, 0)

		// Either half keeps the other. (A split flow's third record is met by
		// whatever meets the client's.)
		all, clients := []int{0, 1, 2}[:p.halves], []int{0, 2}
		for _, fresh := range [][]int{clients[:p.halves-1], {1}} {
			c.age(confirmed, all...)
			c.ageBy(0, confirmed, fresh...)
			c.census(2*p.halves, 0)
		}
		c.age(confirmed, all...)
		c.census(p.halves, p.halves)
		other.standsIn(confirmed)
		other.age(confirmed, all...)
		c.census(0, p.halves)
	})
}

// TestExpireOrphan: a split flow's third record goes with the others, however
// fresh; alone it would hold its place for nothing.
func TestExpireOrphan(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(withTimeouts(t), v, split)
		c.establish()
		c.remove(confirmed, c.clientKey())
		c.remove(confirmed, c.replyKey())
		c.census(0, 1)
	})
}

// TestExpireReopened: an old flow's reply half is not kept by the new flow that
// has taken the client's.
func TestExpireReopened(t *testing.T) {
	forTCP(t, func(t *testing.T, v variant, p path) {
		if !p.snat {
			t.Skip("without SNAT the new flow takes both halves over")
		}
		c := converse(withTimeouts(t), v, p)
		c.establish()
		c.request(acked, flags("FA"))
		c.reply(flags("FA"))
		old := *c
		c.forget()
		c.establish()
		c.census(2*c.halves-1, 0)
		for _, k := range old.keys()[1:] {
			old.alter(confirmed, k, func(r *record) { r.LastSeen = c.jiffies() - longest })
		}
		equal(t, "expired", uint32(old.halves-1), c.expire(v).Expired)
		c.standsIn(confirmed)
	})
}

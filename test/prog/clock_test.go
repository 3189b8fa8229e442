// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestLeastRecentGivesWay: where there is no room and every flow is in use, a new flow repeatedly
// replaces the one with the oldest last packet.
func TestLeastRecentGivesWay(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		newest := converse(newNode(t, oneSet), v, sameDevice)
		var all []*conversation // the one with the oldest last packet comes first
		for range int(bpf.Ways) / newest.halves {
			newest = opensNext(newest, &all)
		}
		for range 3 * len(all) {
			for _, c := range all {
				c.request()
				c.had() // it has a record already
			}
			newest = opensNext(newest, &all)
			for _, c := range all[1:] {
				c.standsUnconfirmed()
			}
			all[0].standsNowhere()
			if t.Failed() { // what follows would fail, too
				return
			}
			all = all[1:]
		}
	})
}

// opensNext adds the flow of the client's next port.
func opensNext(c *conversation, all *[]*conversation) *conversation {
	c.t.Helper()
	next := c.again()
	next.request()
	next.had(bpf.VerdictFlowOpened)
	*all = append(*all, next)
	return next
}

// standsNowhere expects that none of the flow's records is left.
func (c *conversation) standsNowhere() {
	c.t.Helper()
	for _, k := range c.keys() {
		if _, ok := c.lookup(k); ok {
			c.t.Errorf("there is a record of %v", k)
		}
	}
}

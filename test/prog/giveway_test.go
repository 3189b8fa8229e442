// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestNewFlowsGiveWay: where there is no room, a new flow replaces the unconfirmed one with the
// oldest last packet.
func TestNewFlowsGiveWay(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		conv := converse(newNode(t, oneSet), v, sameDevice)
		var all []*conversation
		for range 4 {
			conv.request()
			all = append(all, conv)
			conv = conv.again()
		}
		equal(t, "records", int(bpf.Ways), conv.size(v))
		all[0].request()
		all[2].request()
		conv.request()
		equal(t, "records", int(bpf.Ways), conv.size(v))
		for _, c := range []*conversation{all[0], all[2], all[3], conv} {
			c.standsUnconfirmed()
		}
		for _, k := range all[1].keys() {
			if _, ok := conv.lookup(k); ok {
				t.Errorf("the record of %v stays", k)
			}
		}
	})
}

// TestAnsweredGivesWay: an answer of the backend does not change this.
func TestAnsweredGivesWay(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t, oneSet), v, sameDevice)
		answered(c)
		next := *c
		for range 4 {
			next = *next.again()
			next.request()
		}
		for _, k := range c.keys() {
			if _, ok := c.lookup(k); ok {
				t.Errorf("the record of %v stays", k)
			}
		}
	})
}

// TestTenants: two records that have a place one after the other have different tags, even if they
// belong to the same flow.
func TestTenants(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t, oneSet), v, sameDevice)
		var tags []uint32
		for range 4 {
			c.forget()
			c.request()
			tags = append(tags, c.get(c.clientKey()).tag)
			for _, k := range c.keys() {
				c.remove(k)
			}
		}
		for i := range tags[1:] {
			if tags[i] == tags[i+1] {
				t.Errorf("tags of one place, one after the other: %x", tags)
			}
		}
	})
}

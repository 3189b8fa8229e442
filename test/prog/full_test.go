// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// oneSet makes the flow tables as small as possible: eight records.
var oneSet = flowSets(1)

// fill fills all free ways but so many with other clients' confirmed records, and returns their
// keys.
func (n *node) fill(v variant, room int) (keys []tuple) {
	n.t.Helper()
	table := n.flowTable(v.client)
	used, _ := table.contents()
	for i := range int(bpf.Ways) - len(used) - room {
		r := n.strangers(v, i)
		table.plant(0, r)
		keys = append(keys, r.key)
	}
	return keys
}

// strangers is the record, of those that other clients have, with a number.
func (n *node) strangers(v variant, number int) record {
	r := record{
		key: tuple{src: at(v.client2, uint16(number+1)), dst: at(v.client2, 9), proto: v.proto},
		src: at(v.client2, 9), dst: at(v.client2, 9),
	}
	r.LastSeen = n.jiffies()
	return r
}

// plant puts a confirmed record into the first free way of a set.
func (t table) plant(set int, r record) {
	ways := set * t.setSize()
	way := 0
	for ; binary.NativeEndian.Uint32(t.read(ways+4*way, 4))&bpf.WayMask != bpf.WayFree; way++ {
	}
	t.write(ways+waysSize+way*t.recordSize(), r.encode())
	t.writeTag(place{tag: ways + 4*way}, bpf.WayLive|alive)
}

// refused expects that a packet that would open a flow is dropped, and leaves no record.
func (c *conversation) refused() {
	c.t.Helper()
	before := c.contents()
	p := c.packet(c.client, c.frontend)
	for _, r := range []result{c.xdp(front, p), c.ingress(front, p)} {
		r.dropped(bpf.VerdictDropFlowsFull)
		r.had()
	}
	equal(c.t, "records", keysOf(before), keysOf(c.contents()))
}

func keysOf(records []record) (keys []string) {
	for _, r := range records {
		keys = append(keys, r.key.String())
	}
	slices.Sort(keys)
	return keys
}

// TestFlowsFull: a flow opens if there is room for all of its records, and does not if there is
// room for only some of them.
func TestFlowsFull(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		for room := range p.halves {
			c := converse(newNode(t, oneSet).withTwin(), v, p)
			c.fill(v, room)
			c.refused()
		}
	})
}

// TestFlowsFillUp: established flows take the last records of a table. (UDP's do not, see
// TestDatagramsLeaveRoom.)
func TestFlowsFillUp(t *testing.T) {
	forConnected(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t, oneSet), v, p)
		keys := c.fill(v, p.halves)
		c.establish()
		c.again().refused()
		c.request(acked, payload(3))
		c.reply(flags("A"), payload(100))
		for _, k := range keys {
			c.get(k)
		}
	})
}

// TestFlowsFullExpired: expired records in a full table make room.
func TestFlowsFullExpired(t *testing.T) {
	forConnected(t, func(t *testing.T, v variant, p path) {
		for room := range p.halves {
			c := converse(newNode(t, oneSet).withTwin(), v, p)
			keys := c.fill(v, room)
			c.refused()
			missing := p.halves - room
			for _, k := range keys[:missing] {
				c.alter(k, func(r *record) { r.LastSeen -= longest })
			}
			c.establish()
			for _, k := range keys[missing:] {
				c.get(k)
			}
			c.again().refused()
		}
	})
}

// TestFlowsFullRepair: a flow that has lost a record, and finds no room for it, ends.
func TestFlowsFullRepair(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		for lost := 1; lost < p.halves; lost++ {
			c := converse(newNode(t, oneSet), v, p)
			c.request()
			c.remove(c.keys()[lost])
			c.fill(v, 0)
			c.xdp(front, c.packet(c.client, c.frontend)).dropped(bpf.VerdictDropFlowsFull)
			if _, ok := c.lookup(c.clientKey()); ok {
				t.Errorf("the client's record stays without the one of %v", c.keys()[lost])
			}
		}
	})
}

// TestConfirmedStays: no number of other clients' packets replaces a confirmed flow.
func TestConfirmedStays(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t, oneSet), v, p)
		c.establish()
		next := *c
		for range 20 {
			next = *next.again()
			next.request()
		}
		c.standsConfirmed()
		next.standsUnconfirmed()
		c.request(acked)
		c.reply(flags("A"))
	})
}

// TestDatagramsLeaveRoom: two datagrams from any client confirm a UDP flow. However many flows do
// so, each set keeps a way for others, and a new flow opens and is answered.
func TestDatagramsLeaveRoom(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		// In a smaller table the four sets of a record are too often those where the flow's
		// other records have the only way that is left: of 32 sets, for 15 of a million flows.
		const sets = 128
		const left = 2 // ways of each set for the flows
		n := newNode(t, flowSets(sets))
		for i := range sets * (int(bpf.Ways) - left) {
			n.flowTable(v.client).plant(i%sets, n.strangers(v, i))
		}
		c := converse(n, v, p)
		for range sets * left {
			c.request()
			c.reply()
			c.request(acked)
			c = c.again()
		}
		full := 0
		for at, confirmed := range c.flowTable(v.client).confirmed() {
			switch confirmed {
			case int(bpf.Ways):
				t.Errorf("all ways of set %d are confirmed", at)
			case int(bpf.Ways) - 1:
				full++
			}
		}
		if full < sets*3/4 {
			t.Errorf("%d of %d sets have one way left, want nearly all", full, sets)
		}
		for range 16 {
			c.request()
			c.had(bpf.VerdictFlowOpened)
			c.reply()
			c = c.again()
		}
	})
}

// spilled opens flows until the records of one of them have gone to a later choice than their
// first.
func spilled(n *node, v variant, p path) (all []*conversation) {
	n.t.Helper()
	for c := converse(n, v, p); len(all) < 200; c = c.again() {
		c.establish()
		all = append(all, c)
		if slices.ContainsFunc(c.contents(), func(r record) bool { return r.tag&bpf.TagChoiceMask != 0 }) {
			return all
		}
	}
	n.t.Fatal("each record is in its first set")
	return nil
}

// TestSpilled: a record that has gone to a later choice is found there, and the sets before it
// count it.
func TestSpilled(t *testing.T) {
	forConnected(t, func(t *testing.T, v variant, p path) {
		n := newNode(t, flowSets(32))
		all := spilled(n, v, p)
		n.settled(v)
		for _, c := range all {
			c.standsConfirmed()
			c.request(acked)
			c.reply(flags("A"))
			c.age([]int{0, 1, 2}[:p.halves]...)
		}
		n.expire(v)
		equal(t, "records", 0, n.size(v))
		n.settled(v)
	})
}

// TestSpilledGivesWay: the sets no longer count it when another one has replaced it. Where
// confirmed records leave little room, other clients' records are in later choices, too.
func TestSpilledGivesWay(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t, flowSets(8))
		c := converse(n, v, sameDevice)
		for range 20 {
			r := c.xdp(front, c.packet(c.client, c.frontend, seq(clientSeq)))
			if r.verdict == bpf.VerdictDropFlowsFull { // by chance, all choices of a record are full already
				break
			}
			c.learn(r)
			c.reply()
			c.request(acked)
			c = c.again()
		}
		spilled := 0
		for range 200 {
			c.xdp(front, c.packet(c.client, c.frontend)) // dropped, if it finds no room
			c = c.again()
			for _, r := range c.contents() {
				if !r.isConfirmed() && r.tag&bpf.TagChoiceMask != 0 {
					spilled++
				}
			}
		}
		if spilled == 0 {
			t.Error("each unconfirmed record was in its first set")
		}
		n.settled(v)
	})
}

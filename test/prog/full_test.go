// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// roomForOne makes `flows` as big as one flow of a path.
func roomForOne(t *testing.T, p path) *node {
	t.Helper()
	return newNode(t, flowsEntries(p.halves))
}

// TestFlowsFull: a flow that finds no room stays where it is and works; nobody
// who is in gives way.
func TestFlowsFull(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		first := converse(roomForOne(t, p), v, p)
		first.establish()
		second := first.again()
		second.request()
		second.reply()
		second.request(acked)
		second.had(bpf.VerdictFlowsFull)
		second.standsIn(pending)
		second.reply(flags("A"), payload(100))
		second.had()
		first.request(acked)
		first.standsIn(confirmed)

		for _, k := range first.keys() {
			first.remove(confirmed, k)
		}
		second.request(acked, payload(3))
		second.had(bpf.VerdictFlowConfirmed)
		second.standsIn(confirmed)
		second.reply(payload(7))
	})
}

// TestFlowsFullForLong: a flow that was told to wait moves when there is room,
// however much it has received until then.
func TestFlowsFullForLong(t *testing.T) {
	const step = 60_000
	forTCP(t, func(t *testing.T, v variant, p path) {
		first := converse(roomForOne(t, p), v, p)
		first.establish()
		second := first.again()
		second.request()
		second.reply()
		for received := range uint32(4) {
			second.request(acked, func(p *packet) { p.ack += received * step })
			second.had(bpf.VerdictFlowsFull)
		}
		for _, k := range first.keys() {
			first.remove(confirmed, k)
		}
		second.request(acked, func(p *packet) { p.ack += 4 * step })
		second.had(bpf.VerdictFlowConfirmed)
	})
}

// TestFlowsFullIdle: one that waits has been acknowledged as much as one that
// has moved. It isn't forgotten as a stranger's SYN would be.
func TestFlowsFullIdle(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t, flowsEntries(2),
			variable("timeout_new", uint32(second)), variable("timeout_udp", uint32(3*second)),
			variable("timeout_tcp", uint32(3*second)))
		first := converse(n, v, stack)
		first.establish()
		second := first.again()
		second.request()
		second.reply()
		second.request(acked)
		second.had(bpf.VerdictFlowsFull)
		second.ageBy(2_000_000, pending, 0, 1)
		second.request(acked)
		second.had(bpf.VerdictFlowsFull)
		second.ageBy(2_000_000, pending, 0, 1)
		second.reply(flags("A"))
	})
}

// TestFlowsPartlyFull: room for one half is none, and leaves nothing behind.
func TestFlowsPartlyFull(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		for room := range p.halves {
			if room == 0 {
				continue
			}
			c := converse(newNode(t, flowsEntries(room)), v, p)
			c.request()
			c.reply()
			c.request(acked)
			c.had(bpf.VerdictFlowsFull)
			c.standsIn(pending)
			c.reply(flags("A"))
		}
	})
}

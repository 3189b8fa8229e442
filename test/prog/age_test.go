// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// longest is more than any timeout. Jiffies wrap, so it can't be arbitrary.
const longest = 1 << 30

// margin is more jiffies than a test lasts.
const margin = 100_000

// timeouts are the timeouts of tests, far enough from each other. Any is longer than the time after which a neighbour is
// checked, and so long that no flow expires because a busy machine takes minutes for the next program.
var timeouts = map[string]uint32{
	"timeout_new":             6 * second,
	"timeout_udp":             12 * second,
	"timeout_tcp":             36 * second,
	"timeout_tcp_half_closed": 30 * second,
	"timeout_tcp_closed":      24 * second,
	"timeout_tcp_reset":       18 * second,
}

func (n *node) jiffies() uint32 {
	n.t.Helper()
	var now uint32
	opts := &ebpf.RunOptions{Context: now, ContextOut: &now}
	if _, err := n.program("waggle_jiffies").Run(opts); err != nil {
		n.t.Fatal(err)
	}
	return now
}

// age makes some of a flow's records (see keys) as old as possible.
func (c *conversation) age(which ...int) {
	c.t.Helper()
	c.ageBy(longest, which...)
}

func (c *conversation) ageBy(jiffies uint32, which ...int) {
	c.t.Helper()
	keys := c.keys()
	for _, i := range which {
		c.alter(keys[i], func(r *record) { r.LastSeen = c.jiffies() - jiffies })
	}
}

// TestTimeouts: each state of a flow has its own timeout.
func TestTimeouts(t *testing.T) {
	for _, c := range []struct {
		name, timeout string
		variants      []variant
		reach         func(*conversation)
		send          func(*conversation) // brings the flow into that state
	}{
		{"half-open", "timeout_new", variants, open, open},
		{"answered", "timeout_new", connected, answered, lateReply},
		{"answered", "timeout_udp", udpVariants, answered, lateReply},
		{"established", "timeout_tcp", connected, established(), lateReply},
		{"established", "timeout_udp", udpVariants, established(), lateReply},
		{"half closed", "timeout_tcp_half_closed", connected, established("FA"), lateReply},
		{"reset", "timeout_tcp_reset", connected, established("R"), lateReply},
		{"half closed and reset", "timeout_tcp_reset", connected, established("FA", "R"), lateReply},
	} {
		for _, v := range c.variants {
			t.Run(c.name+" "+v.name, func(t *testing.T) {
				t.Parallel()
				conv := converse(newNode(t), v, tcExpress)
				c.reach(conv)
				conv.ageBy(timeouts[c.timeout]-margin, 0, 1)
				conv.idle = true
				c.send(conv)
				conv.ageBy(timeouts[c.timeout]+margin, 0, 1)
				conv.forget()
				conv.request(acked)
				conv.had(bpf.VerdictFlowOpened)
			})
		}
	}
}

// established confirms a flow, and then sends flags from the client.
func established(sent ...string) func(*conversation) {
	return func(c *conversation) {
		c.establish()
		for _, f := range sent {
			c.request(acked, flags(f))
		}
	}
}

func lateReply(c *conversation) { c.reply(flags("A")) }

// TestStale: a record past its time counts as deleted.
func TestStale(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		c.age(0, 1)
		reply := c.packet(c.backend, c.source, synAck)
		if p.atEgress {
			c.egress(front, reply).passed(bpf.VerdictNotOurs)
		} else {
			c.ingress(p.out, reply).passed(bpf.VerdictNotOurs)
		}
		c.forget()
		c.request(acked)
		c.had(bpf.VerdictFlowOpened)
	})
}

// TestOneWay: a stream may run in one direction for longer than any timeout.
func TestOneWay(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		for range 3 {
			c.age(0) // the client's half; the reply's is fresh
			c.reply()
			c.idle = true
			c.request(acked)
			c.had()
			c.age(1)
			c.request(acked)
			c.idle = true
			c.reply()
			c.had()
		}
		c.standsConfirmed()
	})
}

// TestLastSeen: the time is written once a second, not with each packet.
func TestLastSeen(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, stack)
		c.establish()
		ages := func(jiffies uint32) uint32 {
			c.ageBy(jiffies, 0)
			c.request(acked)
			return c.jiffies() - c.get(c.clientKey()).LastSeen
		}
		if got := ages(second - margin); got < second-margin {
			t.Errorf("written after less than a second: %d jiffies old", got)
		}
		if got := ages(second); got > margin {
			t.Errorf("not written after a second: %d jiffies old", got)
		}
	})
}

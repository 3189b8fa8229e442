// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestReplyLeavesWhereAsked, of contract 50: if the kernel would route an answer by another uplink,
// it leaves by the one that the request came in by.
func TestReplyLeavesWhereAsked(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, stack)
		c.establish()
		for _, out := range []*device{back, tunnel, pod0} {
			r := c.egress(out, c.packet(c.backend, c.source, flags("A"), payload(20)))
			action := uint32(tcNext)
			if out == back { // the only other uplink
				action = tcRedirect
			}
			r.became(bpf.VerdictSource, action, from(c.frontend))
		}
		c.request(acked, payload(5))
		c.reply(flags("A"), payload(20))
	})
}

// TestReplyWithNoRouteThere: not if that uplink has no route to the client.
func TestReplyWithNoRouteThere(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, stack)
		p := c.packet(c.client, c.frontend)
		c.source = c.client
		c.ingress(back, p).became(bpf.VerdictStack, tcNext, to(c.backend)) // no route to the client by this uplink
		c.egress(front, c.packet(c.backend, c.client, synAck)).became(bpf.VerdictSource, tcNext, from(c.frontend))
	})
}

// TestDeviceWithNoRole: nothing leaves without SNAT by a device without our programs.
func TestDeviceWithNoRole(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		c := converse(n, v, otherDevice)
		if err := n.maps["devices"].Delete(uint32(back.index)); err != nil {
			t.Fatal(err)
		}
		p := c.packet(c.client, c.frontend)
		n.xdp(front, p).dropped(bpf.VerdictDropNoRoute)
		n.ingress(front, p).dropped(bpf.VerdictDropNoRoute)
		equal(t, "records", 0, n.size(v))
	})
}

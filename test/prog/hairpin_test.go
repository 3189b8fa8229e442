// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// hairpin: a pod connects to a service, and is chosen itself. It sees the node
// as its client; otherwise it would answer itself past the datapath.
var hairpin = path{
	name: "hairpin", out: pod0, snat: true, fromPod: true, halves: 2,
	request: (*conversation).requestHairpin, reply: (*conversation).replyHairpin,
}

func (c *conversation) requestHairpin(p packet) packet {
	c.t.Helper()
	r := c.podIngress(pod0, p)
	c.events = append(c.events, r.events...)
	if !c.source.IsValid() {
		// The pod's device has no address, so SNAT uses the node's.
		src, _ := addresses(r.out)
		c.source = at(c.plan.back, src.Port())
	}
	return r.became(bpf.VerdictExpress, tcRedirect, from(c.source), to(c.backend), hopDown, turned)
}

// turned: the frame goes back to its sender.
func turned(p *packet) { p.ethSrc, p.ethDst = p.ethDst, p.ethSrc }

func (c *conversation) replyHairpin(p packet) packet {
	c.t.Helper()
	r := c.podIngress(pod0, p)
	c.events = append(c.events, r.events...)
	return r.became(bpf.VerdictExpress, tcRedirect, from(c.frontend), to(c.client), hopDown, turned)
}

// withItself is a pod that connects to its own service.
func withItself(n *node, v variant) *conversation {
	c := &conversation{
		node: n, path: hairpin, variant: v,
		client: at(v.pod, clientPort), backend: at(v.pod, backendPort), frontend: at(v.vip, 80),
	}
	c.service = n.serve(v, c.frontend, c.backend)
	return c
}

// TestHairpin, of contracts 10 and 46: the packets go back by the pod's own device.
//
// Contract: 10, 46.
func TestHairpin(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := withItself(newNode(t), v)
		c.establish()
		c.request(acked, payload(5))
		c.reply(payload(50))
		if !v.isUDP() {
			closeBothWays(c)
			reopen(c)
		}
	})
}

// TestHairpinEvicted: each record of a flow that goes back by the pod's own device is restored as
// one that does.
func TestHairpinEvicted(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		forEachEviction(t, hairpin.halves, func(t *testing.T, e eviction) { e.play(withItself(newNode(t), v)) })
	})
}

// TestHairpinOutside: a backend elsewhere connects to the node port, and is
// chosen.
func TestHairpinOutside(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		self := sameDevice
		self.request, self.reply = (*conversation).requestSelf, (*conversation).replySelf
		c := &conversation{
			node: n, path: self, variant: v,
			client: at(v.near, clientPort), backend: at(v.near, backendPort), frontend: at(v.front, nodePort),
		}
		n.serve(v, at(v.any(), nodePort), c.backend)
		c.establish()
		c.reply(payload(50))
	})
}

func (c *conversation) requestSelf(p packet) packet {
	c.t.Helper()
	r := c.xdp(front, p)
	c.learn(r)
	return r.became(bpf.VerdictExpress, xdpTX, from(c.source), to(c.backend), forwarded(front, c.near))
}

func (c *conversation) replySelf(p packet) packet {
	c.t.Helper()
	return c.xdp(front, p).became(bpf.VerdictExpress, xdpTX, from(c.frontend), to(c.client), forwarded(front, c.near))
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// withCB runs a tc program on a packet with a value in skb->cb, and returns the value after it.
func (n *node) withCB(hook bpf.Hook, program string, d *device, p packet, cb [5]uint32) (result, [5]uint32) {
	n.t.Helper()
	frame := p.bytes()
	n.count()
	context := skbContext{ingress: uint32(d.index), ifindex: uint32(d.index), cb: cb}
	var after [64]uint32 // more than struct __sk_buff
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)), Context: context, ContextOut: &after, Repeat: 1}
	action, err := n.program(program).Run(opts)
	if err != nil {
		n.t.Fatalf("%s: %v", program, err)
	}
	r := result{t: n.t, hook: hook, in: frame, out: opts.DataOut, sent: p, action: action}
	r.verdict, r.events = n.counts(hook)
	return r, [5]uint32(after[unsafe.Offsetof(context.cb)/4:])
}

// TestSentByUs: egress leaves a packet that ingress has sent by redirect alone, once. It translates
// any other, whatever another program has left in its skb->cb.
func TestSentByUs(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		express := converse(n, v, tcExpress)
		express.establish()
		request := express.packet(express.client, express.frontend, acked, macs([]byte(otherGuest), front.mac()))
		r, cb := n.withCB(bpf.HookTCIngress, "waggle_ingress", front, request, [5]uint32{})
		r.is(bpf.VerdictExpress, tcRedirect)
		low, high := cb[0], cb[1]
		if low == 0 || high == 0 {
			t.Fatalf("the mark is %#x, %#x", low, high)
		}

		local := converse(newNode(t), v, stack)
		local.establish()
		reply := local.packet(local.backend, local.source, flags("A"), seq(backendSeq))
		egress := func(cb [5]uint32) (result, [5]uint32) {
			return local.withCB(bpf.HookTCEgress, "waggle_egress", front, reply, cb)
		}
		r, cb = egress(cb)
		r.passed(bpf.VerdictNotOurs)
		r, _ = egress(cb)
		r.became(bpf.VerdictSource, tcNext, from(local.frontend))
		for _, others := range [][5]uint32{{}, {low}, {0, high}, {low ^ 1, high}, {0, low, high}} {
			r, _ = egress(others)
			r.became(bpf.VerdictSource, tcNext, from(local.frontend))
		}
	})
}

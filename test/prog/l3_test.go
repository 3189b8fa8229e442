// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// headless runs a program for devices without a link layer. A test run always
// takes 14 bytes as a link layer, and the protocol from the last two of them.
// Here these are in the middle of the source address: that of the client
// `headless`.
func (n *node) headless(hook bpf.Hook, program string, p packet) result {
	n.t.Helper()
	r := n.tcFrame(hook, program, front, p.bytes()[ethHeader:], 0)
	r.sent = p
	return r
}

// becameHeadless compares from the IP header on.
func (r result) becameHeadless(verdict bpf.Verdict, action uint32, changes ...change) {
	r.t.Helper()
	want := r.sent.with(changes...)
	if r.is(verdict, action) {
		link := want.bytes()[:ethHeader]
		same(r.t, want.bytes(), append(link[:ethHeader:ethHeader], r.out...))
	}
}

// TestNoLinkLayer: the same work, 14 bytes further to the front.
func TestNoLinkLayer(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t).withTwin()
		client, local, remote := at(v.headless, clientPort), at(v.vip, 80), at(v.vip2, 80)
		n.serve(v, local, at(v.pod, backendPort))
		n.serve(v, remote, at(v.far, backendPort))
		in := func(p packet) result { return n.headless(bpf.HookTCIngress, "waggle_ingress_l3", p) }

		in(v.packet(client, at(v.vip, 81), payload(40))).becameHeadless(bpf.VerdictNotOurs, tcNext)
		in(v.packet(client, local, payload(40))).
			becameHeadless(bpf.VerdictStack, tcNext, to(at(v.pod, backendPort)))

		r := in(v.packet(client, remote, payload(40)))
		source := n.get(tuple{src: client, dst: remote, proto: v.proto}).src
		// The kernel redirects to a neighbour only packets with room for a link
		// layer, and fills it in.
		if added := r.out[:min(ethHeader, len(r.out))]; !bytes.Equal(added, make([]byte, ethHeader)) {
			t.Errorf("in front of the packet is %x", added)
		}
		r.out = r.out[min(ethHeader, len(r.out)):]
		r.becameHeadless(bpf.VerdictExpress, tcRedirect, from(source), to(at(v.far, backendPort)), hopDown)
	})
}

// TestNoLinkLayerEgress: here the pod has the client's address, and the client
// the pod's, because a test run takes the protocol from the source.
func TestNoLinkLayerEgress(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t).withTwin()
		client, frontend, backend := at(v.pod, clientPort), at(v.vip, 80), at(v.headless, backendPort)
		n.serve(v, frontend, backend)
		n.podIngress(pod0, v.packet(client, frontend)).became(bpf.VerdictStack, tcNext, to(backend))
		n.headless(bpf.HookTCEgress, "waggle_egress_l3", v.packet(backend, client, synAck, payload(40))).
			becameHeadless(bpf.VerdictSource, tcNext, from(frontend))
	})
}

// TestNoLinkLayerRefusal (only TCP's: the test run's link layer would be in the
// way of UDP's, which moves the packet).
func TestNoLinkLayerRefusal(t *testing.T) {
	for _, v := range variants[:2] {
		n := newNode(t).withTwin()
		client, frontend := at(v.headless, clientPort), at(v.vip, 80)
		n.serve(v, frontend)
		r := n.headless(bpf.HookTCIngress, "waggle_ingress_l3", tcp(client, frontend, seq(7), payload(33)))
		r.sent = tcp(frontend, client, refusal, flags("RA"), seq(0), ack(41))
		r.becameHeadless(bpf.VerdictRefused, tcRedirect)
	}
}

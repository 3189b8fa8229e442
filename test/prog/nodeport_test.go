// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestNodePortAddresses: the wildcard answers on this node's addresses only.
func TestNodePortAddresses(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		backend := at(v.pod, backendPort)
		n.serve(v, at(v.any(), nodePort), backend)
		client := at(v.client, clientPort)
		for _, a := range []netip.Addr{v.front, v.back, v.tunnel} {
			client = at(v.client, client.Port()+1)
			n.ingress(front, v.packet(client, at(a, nodePort))).became(bpf.VerdictStack, tcNext, to(backend))
		}
		loopback := netip.IPv6Loopback()
		if v.client.Is4() {
			loopback = addr("127.0.0.1") // for sockets only: no packet may come in for it
		}
		for _, a := range []netip.Addr{v.vip, v.near, v.pod, loopback, v.any()} {
			p := v.packet(client, at(a, nodePort))
			if a == v.any() {
				continue // the key itself; no packet is sent to it
			}
			n.xdp(front, p).passed(bpf.VerdictNotOurs)
			n.ingress(front, p).passed(bpf.VerdictNotOurs)
		}
	})
}

// TestNodePortsDontAnswer, of contract 11: NodePorts may not answer on an address of the node. It
// may still be an endpoint's, even if the endpoint names another node.
func TestNodePortsDontAnswer(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		n.put(family("node_addrs", v.tunnel), v.tunnel.AsSlice(), bpf.NodeAddrLocal)
		backend := at(v.tunnel, backendPort)
		n.serve(v, at(v.any(), nodePort), backend)
		client := at(v.client, clientPort)
		asked := v.packet(client, at(v.tunnel, nodePort))
		n.xdp(front, asked).passed(bpf.VerdictNotOurs)
		n.ingress(front, asked).passed(bpf.VerdictNotOurs)
		n.ingress(front, v.packet(client, at(v.front, nodePort))).became(bpf.VerdictStack, tcNext, to(backend))
	})
}

// TestNodePortRange: outside of it the wildcard isn't even looked up.
func TestNodePortRange(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		for port, ours := range map[uint16]bool{
			80: false, 29999: false, 30000: true, 32767: true, 32768: false,
		} {
			n.serve(v, at(v.any(), port), at(v.pod, backendPort))
			// (each from a port of its own, otherwise the port would be translated)
			r := n.ingress(front, v.packet(at(v.client, 20000+port%10000), at(v.front, port)))
			if ours {
				r.became(bpf.VerdictStack, tcNext, to(at(v.pod, backendPort)))
			} else {
				r.passed(bpf.VerdictNotOurs)
			}
		}
	})
}

// TestExactAddressFirst: even if it has no backends.
func TestExactAddressFirst(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		wild, exact := at(v.pod, backendPort), at(v.pod2, backendPort)
		n.serve(v, at(v.any(), nodePort), wild)
		n.serve(v, at(v.front, nodePort), exact)
		n.serve(v, at(v.tunnel, nodePort))
		client := at(v.client, clientPort)
		ask := func(a netip.Addr) result { return n.ingress(front, v.packet(client, at(a, nodePort), cutShort)) }
		ask(v.front).became(bpf.VerdictStack, tcNext, to(exact))
		ask(v.back).became(bpf.VerdictStack, tcNext, to(wild))
		ask(v.tunnel).is(bpf.VerdictRefused, tcRedirect)
	})
}

// TestProtocolsAreApart: the same address and port with the other protocol.
func TestProtocolsAreApart(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		n.serve(v, at(v.vip, 53), at(v.pod, backendPort))
		other := udp
		if !v.isTCP() {
			other = tcp
		}
		p := other(at(v.client, clientPort), at(v.vip, 53))
		n.xdp(front, p).passed(bpf.VerdictNotOurs)
		n.ingress(front, p).passed(bpf.VerdictNotOurs)
	})
}

// TestSlotsSpread: each backend of a block gets its share.
func TestSlotsSpread(t *testing.T) {
	const flows = 120
	v := variants[0]
	n := newNode(t)
	n.serve(v, at(v.vip2, 80), at(v.client2, 1)) // an earlier block
	n.serve(v, at(v.vip, 80), at(v.pod, 1), at(v.pod, 2), at(v.pod, 3))
	chosen := make(map[netip.AddrPort]int)
	for port := range uint16(flows) {
		r := n.ingress(front, tcp(at(v.client, 20000+port), at(v.vip, 80)))
		_, dst := addresses(r.out)
		chosen[dst]++
	}
	for _, port := range []uint16{1, 2, 3} {
		// 40 are expected. Fewer than 15 occur once in ten million runs.
		if got := chosen[at(v.pod, port)]; got < 15 {
			t.Errorf("backend %d was chosen %d times of %d", port, got, flows)
		}
	}
	equal(t, "backends", 3, len(chosen))
}

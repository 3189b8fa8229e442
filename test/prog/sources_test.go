// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// localSources is the id of the cluster's own addresses.
const localSources = 0

func (n *node) admit(id uint32, prefix netip.Prefix) {
	n.t.Helper()
	n.put(family("source_ranges", prefix.Addr()), sourceKey(id, prefix), uint8(1))
}

func sourceKey(id uint32, prefix netip.Prefix) any {
	bits := 32 + uint32(prefix.Bits())
	if prefix.Addr().Is4() {
		return bpf.SourceKey4{Prefixlen: bits, Service: id, Addr: word(prefix.Addr())}
	}
	return bpf.SourceKey6{Prefixlen: bits, Service: id, Addr: words(prefix.Addr())}
}

// around is a network that contains an address.
func around(a netip.Addr, hostBits int) netip.Prefix {
	return netip.PrefixFrom(a, a.BitLen()-hostBits).Masked()
}

func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }

// TestSourceRanges, of contract 18: a frontend with source ranges does not serve a client in none
// of them, at any hook.
func TestSourceRanges(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		backend := at(v.pod2, backendPort)
		id := n.serve(v, at(v.vip, 80), backend)
		n.also(at(v.vip2, 80), v.proto, bpf.ServiceLoadBalancer|bpf.ServiceSourceRanges)
		n.admit(id, host(v.client))
		n.admit(id, around(v.pod, 1))
		n.admit(id+1, around(v.client, 8)) // of another service
		n.admit(localSources, around(v.client, 8))

		guarded, open := at(v.vip2, 80), at(v.vip, 80)
		for _, client := range []netip.Addr{v.client2, v.near} {
			p := v.packet(at(client, clientPort), guarded)
			n.xdp(front, p).dropped(bpf.VerdictDropSourceRange)
			n.ingress(front, p).dropped(bpf.VerdictDropSourceRange)
			n.ingress(front, p.with(to(open))).became(bpf.VerdictStack, tcNext, to(backend))
		}
		n.podIngress(pod0, v.packet(at(v.pod2, clientPort), guarded)).dropped(bpf.VerdictDropSourceRange)
		n.podIngress(pod0, v.packet(at(v.pod, clientPort), guarded)).became(bpf.VerdictStack, tcNext, to(backend))
		n.xdp(front, v.packet(at(v.client, clientPort), guarded)).passed(bpf.VerdictLeftToTC)
		n.ingress(front, v.packet(at(v.client, clientPort), guarded)).became(bpf.VerdictStack, tcNext, to(backend))
	})
}

// TestSourceRangesOfNew: the removal of a range breaks no flow.
func TestSourceRangesOfNew(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		c := &conversation{
			node: n, path: stack, variant: v,
			client: at(v.client, clientPort), backend: at(v.pod, backendPort), frontend: at(v.vip, 80),
		}
		c.service = n.publish(service{frontend: c.frontend, proto: v.proto, external: []netip.AddrPort{c.backend},
			flags: bpf.ServiceLoadBalancer | bpf.ServiceSourceRanges})
		n.admit(c.service, around(v.client, 4))
		c.establish()
		if err := n.maps[family("source_ranges", v.client)].Delete(sourceKey(c.service, around(v.client, 4))); err != nil {
			t.Fatal(err)
		}
		c.request(acked, payload(5))
		c.reply(payload(50))
		n.ingress(front, v.packet(at(v.client, clientPort+1), c.frontend)).dropped(bpf.VerdictDropSourceRange)
	})
}

// TestSourceRangesEmpty: a service without endpoints refuses the clients that it would serve.
func TestSourceRangesEmpty(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		id := n.publish(service{frontend: at(v.vip, 80), proto: v.proto, flags: bpf.ServiceSourceRanges})
		n.admit(id, host(v.client))
		n.ingress(front, v.packet(at(v.client, clientPort), at(v.vip, 80), cutShort)).is(bpf.VerdictRefused, tcRedirect)
		n.ingress(front, v.packet(at(v.client2, clientPort), at(v.vip, 80))).dropped(bpf.VerdictDropSourceRange)
	})
}

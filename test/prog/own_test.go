// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// own is a connection of the node itself, or one that netfilter has given the node's address, which
// leaves by a device.
type own struct {
	*node
	variant
	out        *device
	self, peer netip.AddrPort
	port       netip.AddrPort // the node's, as the peer sees it
}

// leaves sends a packet to the peer, and returns it as it is on the wire.
func (o *own) leaves(changes ...change) packet {
	o.t.Helper()
	r := o.egress(o.out, o.packet(o.self, o.peer, changes...))
	if !o.port.IsValid() {
		o.port, _ = addresses(r.out)
	}
	return r.became(bpf.VerdictSource, tcNext, from(o.port))
}

// answered expects that the peer's answer goes to the node's stack, with the addresses and port
// that it was sent from.
func (o *own) answered(changes ...change) {
	o.t.Helper()
	p := o.packet(o.peer, o.port, changes...)
	if o.out == pod0 {
		o.podIngress(o.out, p).became(bpf.VerdictStack, tcNext, to(o.self))
		return
	}
	o.xdp(o.out, p).passed(bpf.VerdictLeftToTC)
	o.ingress(o.out, p).became(bpf.VerdictStack, tcNext, to(o.self))
}

// exchange opens a connection, acknowledges it, and sends data in both directions.
func (o *own) exchange() {
	o.t.Helper()
	o.leaves(seq(clientSeq))
	o.answered(synAck)
	o.leaves(acked)
	o.leaves(acked, payload(20))
	o.answered(flags("A"), payload(200))
	if r := o.get(tuple{src: o.self, dst: o.peer, proto: o.proto, zone: bpf.ZoneLeaving}); !r.isConfirmed() {
		o.t.Errorf("the flow of %s to %s is not confirmed", o.self, o.peer)
	}
}

// TestOwnConnections, of contract 42: a connection leaves the node from a port that is a NodePort,
// or one of the range for SNAT. Its answers open no flow to a service.
func TestOwnConnections(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, port := range []uint16{nodePort, snatMin} {
			for peer, out := range map[netip.Addr]*device{v.client: front, v.far: back, v.pod: pod0} {
				n := newNode(t)
				n.serve(v, at(v.any(), nodePort), at(v.near, backendPort))
				o := &own{node: n, variant: v, out: out, self: at(v.front, port), peer: at(peer, 443)}
				o.exchange()
				equal(t, "source", o.self, o.port)
				equal(t, "records", 2, n.size(v))
			}
		}
	})
}

// TestOwnIsNone: packets that leave from other ports or addresses, and the answers of the node's
// servers, make no record.
func TestOwnIsNone(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		n.serve(v, at(v.any(), nodePort), at(v.near, backendPort))
		packets := []packet{
			v.packet(at(v.front, 443), at(v.client, 443)),
			v.packet(at(v.pod, nodePort), at(v.client, 443)),
		}
		if !v.isUDP() {
			packets = append(packets, v.packet(at(v.front, nodePort), at(v.client, 443), synAck),
				v.packet(at(v.front, nodePort), at(v.client, 443), acked))
		}
		for _, p := range packets {
			n.egress(front, p).passed(bpf.VerdictNotOurs)
		}
		equal(t, "records", 0, n.size(v))
	})
}

// TestOwnComesLater, of contract 43: netfilter has chosen a source port for a pod that a flow of
// ours has towards the same backend. Both work.
func TestOwnComesLater(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, p := range expressPaths {
			c := converse(newNode(t), v, p)
			c.establish()
			o := &own{node: c.node, variant: v, out: c.out, self: c.source, peer: c.backend}
			o.exchange()
			if o.port.Port() == o.self.Port() || o.port.Port() < snatMin {
				t.Errorf("the newcomer from %s has port %d", o.self, o.port.Port())
			}
			c.request(acked, payload(5))
			c.reply(flags("A"), payload(50))
			c.standsConfirmed()
		}
	})
}

// TestOwnComesFirst, of contract 43: a flow of ours does not get its source port.
func TestOwnComesFirst(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		const port = 50000
		n := newNode(t, variable("snat_min", uint16(port)), variable("snat_max", uint16(port)))
		c := converse(n, v, otherDevice)
		o := &own{node: n, variant: v, out: back, self: at(v.back, port), peer: c.backend}
		o.exchange()
		exhausted(c)
		o.leaves(acked, payload(20))
		o.answered(flags("A"), payload(200))
	})
}

// TestDirectlyBesideService, of contract 44: a client connects to an endpoint directly from the
// port of its connection to a service that leads there. Both connections work.
func TestDirectlyBesideService(t *testing.T) {
	for _, v := range connected {
		t.Run(v.name, func(t *testing.T) {
			c := converse(newNode(t), v, stack)
			direct := c.packet(c.client, c.backend, seq(clientSeq))
			c.xdp(front, direct).passed(bpf.VerdictNotOurs)
			c.ingress(front, direct).passed(bpf.VerdictNotOurs)
			c.establish()

			c.xdp(front, direct).passed(bpf.VerdictLeftToTC)
			r := c.ingress(front, direct)
			port, _ := addresses(r.out)
			if port.Port() == c.client.Port() {
				t.Fatalf("the newcomer keeps port %d", port.Port())
			}
			r.became(bpf.VerdictStack, tcNext, from(at(c.client.Addr(), port.Port())))
			c.egress(front, c.packet(c.backend, port, synAck)).became(bpf.VerdictSource, tcNext, to(c.client))
			c.ingress(front, c.packet(c.client, c.backend, acked, payload(5))).
				became(bpf.VerdictStack, tcNext, from(port))
			c.egress(front, c.packet(c.backend, port, flags("A"), payload(50))).
				became(bpf.VerdictSource, tcNext, to(c.client))

			c.request(acked, payload(5))
			c.reply(flags("A"), payload(50))
			c.standsConfirmed()
		})
	}
}

// TestServiceBesideDirectly, of contract 44: in the other order. The endpoint's answer to the
// service's SYN belongs to its direct connection, and the repeated SYN leaves from another port.
// But a refusal is the service's.
func TestServiceBesideDirectly(t *testing.T) {
	answers := map[string][]change{
		"a challenge": {flags("A")}, "data": {flags("A"), payload(20)}, "its end": {flags("AF")},
	}
	for name, answer := range answers {
		for _, v := range connected {
			if v.proto != layers.IPProtocolTCP {
				continue
			}
			t.Run(name+", "+v.name, func(t *testing.T) {
				c := converse(newNode(t), v, stack)
				c.ingress(front, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs)
				c.egress(front, c.packet(c.backend, c.client, synAck)).passed(bpf.VerdictNotOurs)

				c.ingress(front, c.packet(c.client, c.frontend)).became(bpf.VerdictStack, tcNext, to(c.backend))
				for range 2 {
					c.egress(front, c.packet(c.backend, c.client, answer...)).passed(bpf.VerdictSource)
				}
				c.ingress(front, c.packet(c.client, c.backend, acked)).passed(bpf.VerdictStack)

				r := c.ingress(front, c.packet(c.client, c.frontend))
				port, _ := addresses(r.out)
				if port.Port() == c.client.Port() {
					t.Fatalf("the service's connection keeps port %d", port.Port())
				}
				r.became(bpf.VerdictStack, tcNext, from(port), to(c.backend))
				c.egress(front, c.packet(c.backend, port, synAck)).
					became(bpf.VerdictSource, tcNext, from(c.frontend), to(c.client))
				c.ingress(front, c.packet(c.client, c.frontend, acked)).
					became(bpf.VerdictStack, tcNext, from(port), to(c.backend))
				c.egress(front, c.packet(c.backend, c.client, flags("A"), payload(50))).passed(bpf.VerdictSource)

				refused := c.again()
				refused.request()
				refused.reply(flags("RA"))
			})
		}
	}
}

// TestDatagramsDirectlyFirst, of contract 44: a client has sent datagrams to the endpoint from a port. So its flow to
// a service gets another port there, by tc and by XDP, for as long as answers may come.
func TestDatagramsDirectlyFirst(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			c := converse(newNode(t), v, stack)
			asks := func() {
				t.Helper()
				c.xdp(front, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs)
				c.ingress(front, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs)
				c.podIngress(pod0, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs) // noted there beside it
			}
			asks()
			c.request()
			if c.source.Port() == c.client.Port() {
				t.Errorf("the service's flow keeps port %d", c.client.Port())
			}
			c.reply()
			asks()
			c.egress(front, c.packet(c.backend, c.client)).passed(bpf.VerdictNotOurs)

			c = c.again()
			asks()
			c.ageDirects(timeouts["timeout_udp"] - margin)
			c.leftToTC(front, c.packet(c.client, c.frontend))
			c.request()
			if c.source.Port() == c.client.Port() {
				t.Errorf("the service's flow, opened by XDP, keeps port %d", c.client.Port())
			}

			c = c.again()
			asks()
			c.ageDirects(timeouts["timeout_udp"])
			c.request()
			equal(t, "source after a time", c.client, c.source)

			c = c.again()
			asks()
			c.ageDirects(timeouts["timeout_udp"] - margin)
			asks() // once more, which counts
			c.ageDirects(2 * margin)
			c.request()
			if c.source.Port() == c.client.Port() {
				t.Errorf("the service's flow keeps port %d, which was used twice", c.client.Port())
			}
		})
	}
}

// TestDirectsShareAPlace: of two clients whose datagrams have one place in the cache, the later is known. The other's
// flow to the service keeps its port.
func TestDirectsShareAPlace(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			c := converse(newNode(t), v, stack)
			var all []*conversation
			for len(c.directs.used()) == len(all) {
				c = c.again()
				c.ingress(front, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs)
				all = append(all, c)
			}
			var kept []*conversation
			for _, c := range all {
				if c.request(); c.source == c.client {
					kept = append(kept, c)
				}
			}
			if len(kept) != 1 || kept[0] == c {
				t.Errorf("%d of %d flows keep their ports, want one that is not the last", len(kept), len(all))
			}
		})
	}
}

// TestDatagramsToService: a flow's own datagrams do not count as direct ones. Opened anew, it keeps its port.
func TestDatagramsToService(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			c := converse(newNode(t), v, stack)
			for range 2 {
				c.request()
				equal(t, "source", c.client, c.source)
				c.podIngress(pod0, c.packet(c.backend, c.client)).passed(bpf.VerdictNotOurs) // noted, as the pod's own
				c.reply()
				c.remove(c.clientKey())
			}
			equal(t, "noted datagrams", 1, len(c.directs.used()))
		})
	}
}

// TestDirectsOfAZone: a pod that sends under the address of a client outside does not cost that one its port.
func TestDirectsOfAZone(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			c := converse(newNode(t), v, stack)
			c.podIngress(pod0, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs)
			c.request()
			equal(t, "source", c.client, c.source)
		})
	}
}

// TestDirectsGiveWay: datagrams from all ports that a flow may get do not keep a client from a service.
func TestDirectsGiveWay(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			const first, last = 50000, 50003
			c := converse(newNode(t, variable("snat_min", uint16(first)), variable("snat_max", uint16(last))), v, stack)
			for port := uint16(first); port <= last; port++ {
				c.ingress(front, c.packet(at(c.client.Addr(), port), c.backend)).passed(bpf.VerdictNotOurs)
			}
			c.ingress(front, c.packet(c.client, c.backend)).passed(bpf.VerdictNotOurs)
			c.request()
			c.reply()
		})
	}
}

// TestAnswersAreNotOwn: an answer that is translated already passes one more egress hook, as
// between a bridge and its port. It leaves from a NodePort, and is no connection of the node's own.
func TestAnswersAreNotOwn(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, stack)
		c.request()
		answer := c.reply()
		c.egress(front, answer).passed(bpf.VerdictNotOurs)
		c.request(acked)
		c.reply(payload(50))
		equal(t, "records", 2, c.size(v))
	})
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// stale removes flows to endpoints that no longer serve.
func (c *conversation) stale(kept, released int) {
	c.t.Helper()
	var census bpf.StaleCensus
	opts := &ebpf.RunOptions{Context: census, ContextOut: &census}
	if _, err := c.program(family("waggle_stale", c.variant.client)).Run(opts); err != nil {
		c.t.Fatal(err)
	}
	equal(c.t, "census", bpf.StaleCensus{Kept: uint32(kept), Released: uint32(released)}, census)
}

// alterBackend changes the conversation's backend, of which each scope has an element.
func (c *conversation) alterBackend(change func(*bpf.Backend)) {
	c.t.Helper()
	for id := uint32(1); id <= c.backends; id++ {
		var b bpf.Backend
		if err := c.maps["backends"].Lookup(id, &b); err != nil {
			c.t.Fatal(err)
		}
		if b.Service == c.service && b.Addr == words(c.backend.Addr()) && b.Port == netPort(c.backend.Port()) {
			change(&b)
			c.put("backends", id, b)
		}
	}
}

// changesOfBackend are possible changes of the element that a flow refers to.
var changesOfBackend = []struct {
	name   string
	stays  bool
	change func(*bpf.Backend)
}{
	{"serving", true, func(*bpf.Backend) {}},
	{"in no set", true, func(b *bpf.Backend) {
		b.Flags = b.Flags&^(bpf.BackendInClusterSet|bpf.BackendInLocalSet) | bpf.BackendKept
	}},
	{"gone", false, func(b *bpf.Backend) { b.Flags &^= bpf.BackendInClusterSet | bpf.BackendInLocalSet }},
	{"free", false, func(b *bpf.Backend) { *b = bpf.Backend{} }},
	{"another service's", false, func(b *bpf.Backend) { b.Service++ }},
	{"at another address", false, func(b *bpf.Backend) { b.Addr[0] ^= 1 << 31 }},
	{"at another port", false, func(b *bpf.Backend) { b.Port = netPort(backendPort + 1) }},
}

// TestRow28Stale: the client's half of a UDP flow, confirmed or not, is removed when its endpoint
// no longer serves, and nothing else is. Answers are still translated. TCP flows stay.
func TestRow28Stale(t *testing.T) {
	for _, what := range changesOfBackend {
		t.Run(what.name, func(t *testing.T) {
			forEachPath(t, func(t *testing.T, v variant, p path) {
				c := converse(newNode(t), v, p)
				c.establish()
				young := c.again()
				young.request()
				other := c.beside()
				other.establish()
				if c.isUDP() {
					c.stale(3, 0)
				}
				c.alterBackend(what.change)
				switch {
				case !c.isUDP():
					c.stale(0, 0)
				case what.stays:
					c.stale(3, 0)
				default:
					c.stale(1, 2)
					c.lacksClient()
					young.lacksClient()
					c.reply(payload(7))
					young.reply(payload(7)) // must not restore it
					c.lacksClient()
					young.lacksClient()
					other.standsConfirmed()
					c.stale(1, 0)
					return
				}
				c.standsConfirmed()
				young.standsUnconfirmed()
			})
		})
	}
}

// lacksClient expects that the client's half is gone, and the others exist.
func (c *conversation) lacksClient() {
	c.t.Helper()
	for i, k := range c.keys() {
		if _, ok := c.lookup(k); ok != (i > 0) {
			c.t.Errorf("there is a record of %v: %t", k, ok)
		}
	}
}

// beside is the same client's conversation with another service of the same endpoint.
func (c *conversation) beside() *conversation {
	next := *c.again()
	next.client = at(next.client.Addr(), next.client.Port()+1)
	next.frontend = at(next.frontend.Addr(), nodePort+1)
	next.service = next.serve(next.variant, at(next.any(), nodePort+1), next.backend)
	return &next
}

// TestRow28Afresh: the next packet goes to the remaining endpoint.
func TestRow28Afresh(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		c := converse(newNode(t), v, p)
		c.establish()
		c.alterBackend(func(b *bpf.Backend) { b.Flags &^= bpf.BackendInClusterSet | bpf.BackendInLocalSet })
		moved := *c
		moved.backend = at(c.backend.Addr(), backendPort+1)
		moved.serve(v, at(v.any(), nodePort), moved.backend)
		c.request() // unchanged, while nothing has been removed
		c.stale(0, 1)
		moved.forget()
		moved.request()
		moved.had(bpf.VerdictFlowOpened)
		moved.standsUnconfirmed()
	})
}

// TestRow28HandedOver: the frontend belongs to another service of the same endpoint by now.
func TestRow28HandedOver(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		c := converse(newNode(t), v, p)
		c.establish()
		c.alterBackend(func(b *bpf.Backend) { *b = bpf.Backend{} })
		c.serve(v, at(v.any(), nodePort), c.backend)
		c.stale(1, 0)
		c.standsConfirmed()
		c.request()
		c.had()
	})
}

// adopt records another translator's connection, as the agent does: it does not know whether the
// packets come in from outside or from a pod.
func (c *conversation) adopt(client, backend tuple) {
	c.t.Helper()
	for _, zone := range []bpf.Zone{bpf.ZoneOutside, bpf.ZonePod} {
		client.zone, backend.zone = zone, zone
		c.adoptHalf(client, tuple{src: backend.dst, dst: backend.src}, 0)
		c.adoptHalf(backend, tuple{src: client.dst, dst: client.src}, bpf.FlowReply)
	}
}

func (c *conversation) adoptHalf(key, to tuple, flags uint16) {
	c.t.Helper()
	a := bpf.Adoption{
		Key: key.encode(), To: to.encode(), Family: unix.AF_INET6, State: alive,
		Flags: flags | bpf.FlowForeign | uint16(key.zone)*bpf.FlowMirrorZone,
	}
	if key.src.Addr().Is4() {
		a.Family = unix.AF_INET
	}
	added, err := c.program("waggle_adopt").Run(&ebpf.RunOptions{Context: a})
	if err != nil || added != 1 {
		c.t.Fatalf("adopt %v: %d, %v", key, int32(added), err)
	}
}

// encode returns a tuple in the programs' form.
func (k tuple) encode() bpf.Tuple {
	return bpf.Tuple{
		Saddr: bpf.Addr{Word: words(k.src.Addr())}, Daddr: bpf.Addr{Word: words(k.dst.Addr())},
		Sport: netPort(k.src.Port()), Dport: netPort(k.dst.Port()), Proto: uint8(k.proto), Zone: uint8(k.zone),
	}
}

// TestForeign: packets of another translator's connection pass all hooks unchanged, though the
// frontend is ours, until the connection has ended.
func TestForeign(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		client := tuple{src: c.client, dst: c.frontend, proto: v.proto}
		backend := tuple{src: c.backend, dst: at(back.addr(v.plan), nodePort), proto: v.proto}
		c.adopt(client, backend)
		request := v.packet(client.src, client.dst).with(acked)
		reply := v.packet(backend.src, backend.dst).with(payload(5), acked)
		through := func(request, reply packet) {
			t.Helper()
			for _, r := range []result{
				c.xdp(front, request), c.ingress(front, request), c.podIngress(pod0, request),
				c.xdp(back, reply), c.ingress(back, reply), c.podIngress(pod0, reply),
			} {
				r.passed(bpf.VerdictNotOurs)
				r.had()
			}
		}
		through(request, reply)
		equal(t, "records", 4, c.size(v))
		c.stale(2*b2i(v.isUDP()), 0)
		equal(t, "records", 4, c.size(v))

		// Either half keeps the other, and neither outlives both.
		old := func(r *record) { r.LastSeen = c.jiffies() - longest }
		c.alter(client, old)
		equal(t, "census", bpf.Census{Confirmed: 4, Foreign: 4}, c.expire(v))
		through(request, reply)
		if !v.isUDP() {
			through(request.with(flags("FA")), reply.with(flags("FA")))
			equal(t, "state", alive|bpf.StateFinClient|bpf.StateFinBackend, c.get(client).state())
			equal(t, "state", alive|bpf.StateFinClient|bpf.StateFinBackend, c.get(backend).state())
		} else {
			c.alter(client, old)
			c.alter(backend, old)
		}
		c.request() // opens a flow of its own
		c.had(bpf.VerdictFlowOpened)
	})
}

// TestForeignPort: a port by which another translator's backend knows its client is not used for
// our flow to the same backend: answers could not be distinguished.
func TestForeignPort(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t, variable("snat_min", uint16(50000)), variable("snat_max", uint16(50001))), v, otherDevice)
		source := at(back.addr(v.plan), 50000)
		c.adopt(tuple{src: at(v.client2, clientPort), dst: c.frontend, proto: v.proto},
			tuple{src: c.backend, dst: source, proto: v.proto})
		r := c.xdp(front, c.packet(c.client, c.frontend, seq(clientSeq)))
		src, _ := addresses(r.out)
		equal(t, "source", at(source.Addr(), 50001), src)
		for range 20 { // each takes the port from the one before, none takes the other translator's
			c = c.again()
			src, _ := addresses(c.xdp(front, c.packet(c.client, c.frontend, seq(clientSeq))).out)
			equal(t, "source", at(source.Addr(), 50001), src)
		}
	})
}

// TestRow28Foreign: another translator's flow becomes ours when our frontend does not lead where it
// does. It does not if the frontend isn't ours.
func TestRow28Foreign(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		n := newNode(t)
		frontend, elsewhere := at(v.vip, 80), at(v.vip2, 80)
		n.publish(service{
			frontend: frontend, proto: v.proto,
			external: []netip.AddrPort{at(v.pod, backendPort), at(v.far, backendPort)},
			internal: []netip.AddrPort{at(v.near, backendPort), at(v.pod2, backendPort)},
		})
		c := converse(n, v, otherDevice) // for its methods
		port := uint16(clientPort)
		adopted := func(frontend, backend netip.AddrPort) tuple {
			port++
			client := tuple{src: at(v.client, port), dst: frontend, proto: v.proto}
			c.adopt(client, tuple{src: backend, dst: client.src, proto: v.proto})
			return client
		}
		stay := []tuple{
			adopted(frontend, at(v.far, backendPort)), adopted(frontend, at(v.pod2, backendPort)),
			adopted(elsewhere, at(v.far2, backendPort)),
		}
		leave := []tuple{adopted(frontend, at(v.far, backendPort+1)), adopted(frontend, at(v.far2, backendPort))}
		c.stale(2*len(stay), 2*len(leave))
		for _, k := range stay {
			c.get(k)
		}
		for _, k := range leave {
			if _, ok := c.lookup(k); ok {
				t.Errorf("%v is still there", k)
			}
		}
	})
}

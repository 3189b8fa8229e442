// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// stale has flows to endpoints that no longer serve removed.
func (c *conversation) stale(live, removed int) {
	c.t.Helper()
	var census bpf.Census
	opts := &ebpf.RunOptions{Context: census, ContextOut: &census}
	if _, err := c.program(family("waggle_stale", c.variant.client)).Run(opts); err != nil {
		c.t.Fatal(err)
	}
	equal(c.t, "census", bpf.Census{Live: uint32(live), Expired: uint32(removed)}, census)
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

// changesOfBackend are what may have become of the element that a flow remembers.
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

// TestRow28Stale: the client's half of a UDP flow goes when its endpoint serves no more, in
// either table, and nothing else does; answers still find their way. TCP stays.
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
					c.lacksClient(confirmed)
					young.lacksClient(pending)
					c.reply(payload(7))
					young.reply(payload(7)) // must not bring it back
					c.lacksClient(confirmed)
					young.lacksClient(pending)
					other.standsIn(confirmed)
					c.stale(1, 0)
					return
				}
				c.standsIn(confirmed)
				young.standsIn(pending)
			})
		})
	}
}

// lacksClient: the client's half is in neither table, the others are in this one.
func (c *conversation) lacksClient(table string) {
	c.t.Helper()
	for _, name := range []string{pending, confirmed} {
		for i, k := range c.keys() {
			if _, ok := c.lookup(name, k); ok != (i > 0 && name == table) {
				c.t.Errorf("%s holds %v: %t", name, k, ok)
			}
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

// TestRow28Afresh: the packet after that goes to the endpoint that is left.
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
		c.request() // as before, while nothing has been removed
		c.stale(0, 1)
		moved.forget()
		moved.request()
		moved.had(bpf.VerdictFlowOpened)
		moved.standsIn(pending)
	})
}

// TestRow28HandedOver: the frontend is another service's by now, of the same endpoint.
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
		c.standsIn(confirmed)
		c.request()
		c.had()
	})
}

// adopt records another translator's connection, as the agent does.
func (c *conversation) adopt(source, backend tuple) {
	c.t.Helper()
	state := bpf.StateAnswered | bpf.StateConfirmed
	for _, half := range []struct {
		key, to tuple
		flags   uint16
	}{
		{source, tuple{src: backend.dst, dst: backend.src}, bpf.FlowForeign},
		{backend, tuple{src: source.dst, dst: source.src}, bpf.FlowForeign | bpf.FlowReply},
	} {
		r := record{src: half.to.src, dst: half.to.dst}
		r.Flow = bpf.Flow{
			LastSeen: c.jiffies(), State: state, Flags: half.flags,
			Sport: netPort(r.src.Port()), Dport: netPort(r.dst.Port()),
		}
		if err := c.table(confirmed, half.key).replace(half.key.bytes(), r.bytes()); err != nil {
			c.t.Fatal(err)
		}
	}
}

// TestForeign: what another translator has opened passes all hooks untouched, though
// its frontend is ours, until it is over.
func TestForeign(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(withTimeouts(t), v, otherDevice)
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
		equal(t, "records", 2, c.size(confirmed, v))
		equal(t, "records", 0, c.size(pending, v))
		c.stale(b2i(v.isUDP()), 0)
		equal(t, "records", 2, c.size(confirmed, v))

		// Either half keeps the other, and neither outlives both.
		old := func(r *record) { r.LastSeen = c.jiffies() - longest }
		c.alter(confirmed, client, old)
		equal(t, "census", bpf.Census{Live: 2, Foreign: 2}, c.expire(v))
		through(request, reply)
		if !v.isUDP() {
			through(request.with(flags("FA")), reply.with(flags("FA")))
			equal(t, "state", alive|bpf.StateFinClient|bpf.StateFinBackend, c.get(confirmed, client).State)
			equal(t, "state", alive|bpf.StateFinClient|bpf.StateFinBackend, c.get(confirmed, backend).State)
		} else {
			c.alter(confirmed, client, old)
			c.alter(confirmed, backend, old)
		}
		c.request() // of its own
		c.had(bpf.VerdictFlowOpened)
	})
}

// TestForeignPort: a port by which another translator knows its client is not used for
// ours towards the same backend: answers could not be told apart.
func TestForeignPort(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t, variable("snat_min", uint16(50000)), variable("snat_max", uint16(50001))), v, otherDevice)
		source := at(back.addr(v.plan), 50000)
		c.adopt(tuple{src: at(v.client2, clientPort), dst: c.frontend, proto: v.proto},
			tuple{src: c.backend, dst: source, proto: v.proto})
		r := c.xdp(front, c.packet(c.client, c.frontend, seq(clientSeq)))
		src, _ := addresses(r.out)
		equal(t, "source", at(source.Addr(), 50001), src)
		for range 20 { // each takes the port from the one before, none the other translator's
			c = c.again()
			src, _ := addresses(c.xdp(front, c.packet(c.client, c.frontend, seq(clientSeq))).out)
			equal(t, "source", at(source.Addr(), 50001), src)
		}
	})
}

// TestRow28Foreign: another translator's flow becomes ours when our frontend does not lead
// where it does, but not if the frontend isn't ours.
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
		c.stale(len(stay), len(leave))
		for _, k := range stay {
			c.get(confirmed, k)
		}
		for _, k := range leave {
			if _, ok := c.lookup(confirmed, k); ok {
				t.Errorf("%v is still there", k)
			}
		}
	})
}

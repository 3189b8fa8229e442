// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	nodePort    = 30080
	clientPort  = 40001
	backendPort = 8080
	clientSeq   = 1000
	backendSeq  = 0xfffffff0 // wraps soon
)

// path is a path through the node, as a function of the backend's place.
type path struct {
	name     string
	backend  func(plan) netip.Addr
	out      *device // towards the backend
	snat     bool
	atEgress bool // the reply is seen where it leaves
	fromPod  bool // the client is a pod
	halves   int  // number of a flow's records
	// Each takes a packet through the hooks on its path, checks the result of
	// each hook, and returns the last one's.
	request, reply func(*conversation, packet) packet
}

var (
	sameDevice = path{
		name: "xdp-tx", out: front, snat: true, halves: 2,
		backend: func(p plan) netip.Addr { return p.near },
		request: (*conversation).requestXDP, reply: (*conversation).replyXDP,
	}
	otherDevice = path{
		name: "xdp-redirect", out: back, snat: true, halves: 2,
		backend: func(p plan) netip.Addr { return p.far },
		request: (*conversation).requestXDP, reply: (*conversation).replyXDP,
	}
	tcExpress = path{
		name: "tc-express", out: slow, snat: true, halves: 2,
		backend: func(p plan) netip.Addr { return p.unready },
		request: (*conversation).requestTC, reply: (*conversation).replyTC,
	}
	split = path{
		name: "split", out: tunnel, snat: true, halves: 3,
		backend: func(p plan) netip.Addr { return p.tunnelled },
		request: (*conversation).requestSplit, reply: (*conversation).replyTC,
	}
	stack = path{
		name: "stack", out: pod0, atEgress: true, halves: 2,
		backend: func(p plan) netip.Addr { return p.pod },
		request: (*conversation).requestStack, reply: (*conversation).replyStack,
	}
	paths = []path{sameDevice, otherDevice, tcExpress, split, stack}
)

// conversation is one client's flow with all its packets.
type conversation struct {
	*node
	path
	variant
	service                   uint32
	client, frontend, backend netip.AddrPort
	source                    netip.AddrPort // the client, as the backend knows it
	events                    []bpf.Verdict  // of the last packet
	idle                      bool           // the next packet comes after a while
}

// converse publishes a NodePort with one backend. It sends nothing yet.
func converse(n *node, v variant, p path) *conversation {
	n.t.Helper()
	c := &conversation{
		node: n, path: p, variant: v,
		client: at(v.client, clientPort), frontend: at(v.front, nodePort),
		backend: at(p.backend(v.plan), backendPort),
	}
	c.service = n.serve(v, at(v.any(), nodePort), c.backend)
	return c
}

// again returns the same client's conversation from its next port.
func (c *conversation) again() *conversation {
	next := *c
	next.client = at(c.client.Addr(), c.client.Port()+1)
	next.forget()
	return &next
}

// request sends a packet from the client; by default one that opens a flow.
func (c *conversation) request(changes ...change) packet {
	c.t.Helper()
	c.events = nil
	return c.path.request(c, c.packet(c.client, c.frontend, seq(clientSeq)).with(changes...))
}

// reply sends a packet from the backend; by default the first answer.
func (c *conversation) reply(changes ...change) packet {
	c.t.Helper()
	c.events = nil
	return c.path.reply(c, c.packet(c.backend, c.source, synAck).with(changes...))
}

func synAck(p *packet) { p.flags, p.seq, p.ack = "SA", backendSeq, clientSeq+1 }

// acked is the client's answer to a SYN-ACK.
func acked(p *packet) { p.flags, p.seq, p.ack = "A", clientSeq+1, backendSeq+1 }

// establish sends packets until the flow is confirmed.
func (c *conversation) establish() {
	c.t.Helper()
	c.request()
	c.reply()
	c.request(acked)
	c.had(bpf.VerdictFlowConfirmed)
	c.standsConfirmed()
}

func (c *conversation) had(events ...bpf.Verdict) {
	c.t.Helper()
	equal(c.t, "events", names(events), names(c.events))
}

// requestXDP: after a while tc does XDP's work once, so that the kernel sees
// that the neighbour is in use.
func (c *conversation) requestXDP(p packet) packet {
	c.t.Helper()
	if c.idle {
		return c.requestTC(p)
	}
	r := c.xdp(front, p)
	c.learn(r)
	action := uint32(xdpRedirect)
	if c.out == front {
		action = xdpTX
	}
	return r.became(bpf.VerdictExpress, action,
		from(c.source), to(c.backend), forwarded(c.out, c.backend.Addr()))
}

func (c *conversation) replyXDP(p packet) packet {
	c.t.Helper()
	if c.idle {
		c.leftToTC(c.out, p)
		return c.replyTC(p)
	}
	r := c.xdp(c.out, p)
	c.learn(r)
	action := uint32(xdpRedirect)
	if c.out == front {
		action = xdpTX
	}
	return r.became(bpf.VerdictExpress, action,
		from(c.frontend), to(c.client), forwarded(front, c.router))
}

// leftToTC is XDP's result for a packet whose flow it knows but can't serve.
func (c *conversation) leftToTC(in *device, p packet) {
	c.t.Helper()
	r := c.xdp(in, p)
	r.passed(bpf.VerdictLeftToTC)
	c.events = append(c.events, r.events...)
}

func (c *conversation) requestTC(p packet) packet {
	c.t.Helper()
	c.leftToTC(front, p)
	r := c.ingress(front, p)
	c.learn(r)
	return r.became(bpf.VerdictExpress, tcRedirect,
		from(c.source), to(c.backend), c.transmitted(c.out, c.backend.Addr()))
}

// transmitted is tc's change of the rest of a frame. If there is a next hop,
// and it was checked recently, it is the same as XDP's. Otherwise the kernel
// makes the link layer.
func (c *conversation) transmitted(out *device, nexthop netip.Addr) change {
	idle := c.idle
	c.idle = false
	if idle || out.flags&bpf.DeviceTCTransmits == 0 || nexthop == c.silent {
		return hopDown
	}
	return forwarded(out, nexthop)
}

// returned is tc's change of the rest of a packet to the client.
func (c *conversation) returned() change {
	switch a := c.client.Addr(); a {
	case c.pod:
		return c.transmitted(pod0, a)
	case c.near:
		return c.transmitted(front, a)
	}
	return c.transmitted(front, c.router)
}

func (c *conversation) replyTC(p packet) packet {
	c.t.Helper()
	r := c.ingress(c.out, p)
	c.learn(r)
	return r.became(bpf.VerdictExpress, tcRedirect,
		from(c.frontend), to(c.client), c.returned())
}

// requestSplit: ingress changes the destination, egress the source. The test,
// in place of the kernel, decrements the hop limit in between.
func (c *conversation) requestSplit(p packet) packet {
	c.t.Helper()
	c.leftToTC(front, p)
	r := c.ingress(front, p)
	c.learn(r)
	half := at(c.client.Addr(), c.source.Port())
	routed := r.became(bpf.VerdictStack, tcNext, from(half), to(c.backend)).with(hopDown)
	r = c.egress(c.out, routed)
	c.events = append(c.events, r.events...)
	return r.became(bpf.VerdictSource, tcNext, from(c.source))
}

func (c *conversation) requestStack(p packet) packet {
	c.t.Helper()
	c.leftToTC(front, p)
	r := c.ingress(front, p)
	c.learn(r)
	return r.became(bpf.VerdictStack, tcNext, from(c.source), to(c.backend))
}

func (c *conversation) replyStack(p packet) packet {
	c.t.Helper()
	r := c.egress(front, p)
	c.learn(r)
	return r.became(bpf.VerdictSource, tcNext, from(c.frontend), to(c.client))
}

// learn reads from the first packet the source that the backend sees.
func (c *conversation) learn(r result) {
	c.t.Helper()
	c.events = append(c.events, r.events...)
	if c.source.IsValid() {
		return
	}
	src, _ := addresses(r.out)
	c.source = src
	if !c.snat {
		return
	}
	c.source = at(c.out.addr(c.plan), src.Port())
	if src.Port() < snatMin {
		c.t.Errorf("source port %d is not from the range reserved", src.Port())
	}
}

// forget makes the next request open a new flow.
func (c *conversation) forget() { c.source = netip.AddrPort{} }

func (c *conversation) clientKey() tuple {
	return tuple{src: c.client, dst: c.frontend, proto: c.proto, zone: c.clientZone()}
}

func (c *conversation) replyKey() tuple {
	return tuple{src: c.backend, dst: c.source, proto: c.proto, zone: c.replyZone()}
}

// clientZone and replyZone are the zones of the packets of either direction.
func (c *conversation) clientZone() bpf.Zone {
	if c.fromPod {
		return bpf.ZonePod
	}
	return bpf.ZoneOutside
}

func (c *conversation) replyZone() bpf.Zone {
	switch {
	case c.atEgress:
		return bpf.ZoneLeaving
	case c.out == pod0:
		return bpf.ZonePod
	}
	return bpf.ZoneOutside
}

// splitKey is the key of the third record: the packet between the two hooks.
func (c *conversation) splitKey() tuple {
	return tuple{src: at(c.client.Addr(), c.source.Port()), dst: c.backend, proto: c.proto, zone: bpf.ZoneLeaving}
}

func (c *conversation) keys() []tuple {
	keys := []tuple{c.clientKey(), c.replyKey()}
	if c.halves == 3 {
		keys = append(keys, c.splitKey())
	}
	return keys
}

// standsConfirmed expects that all of the flow's records exist and are
// confirmed.
func (c *conversation) standsConfirmed() {
	c.t.Helper()
	c.stands(true)
}

// standsUnconfirmed expects that all of the flow's records exist, and none is
// confirmed.
func (c *conversation) standsUnconfirmed() {
	c.t.Helper()
	c.stands(false)
}

func (c *conversation) stands(confirmed bool) {
	c.t.Helper()
	for _, k := range c.keys() {
		switch r, ok := c.lookup(k); {
		case !ok:
			c.t.Errorf("there is no record of %v", k)
		case r.isConfirmed() != confirmed:
			c.t.Errorf("the record of %v is confirmed: %t", k, r.isConfirmed())
		}
	}
}

// state expects a state of the flow, in both halves.
func (c *conversation) state(want uint32) {
	c.t.Helper()
	for _, k := range []tuple{c.clientKey(), c.replyKey()} {
		equal(c.t, "state", want, c.get(k).state())
	}
}

// forEach runs a test for both families and protocols.
func forEach(t *testing.T, test func(*testing.T, variant)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			test(t, v)
		})
	}
}

// inTurn is forEach for tests that change the namespace.
func inTurn(t *testing.T, test func(*testing.T, variant)) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) { test(t, v) })
	}
}

// forEachPath runs a test for all paths, too.
func forEachPath(t *testing.T, test func(*testing.T, variant, path)) {
	for _, p := range paths {
		t.Run(p.name, func(t *testing.T) {
			forEach(t, func(t *testing.T, v variant) { test(t, v, p) })
		})
	}
}

// forConnected leaves out UDP.
func forConnected(t *testing.T, test func(*testing.T, variant, path)) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if v.isUDP() {
			t.Skip("no connections")
		}
		test(t, v, p)
	})
}

// forTCP leaves out UDP and SCTP.
func forTCP(t *testing.T, test func(*testing.T, variant, path)) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isTCP() {
			t.Skip("TCP only")
		}
		test(t, v, p)
	})
}

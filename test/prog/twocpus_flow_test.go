// SPDX-License-Identifier: Apache-2.0

package prog

import "net/netip"

// racePaths are the paths for races: XDP's, where each packet passes one program, and the stack's,
// where tc sees the requests at ingress and the replies at egress.
var (
	expressPaths = []path{otherDevice, sameDevice}
	racePaths    = []path{otherDevice, sameDevice, stack}
)

// serveSome publishes a NodePort with so many backends, no more than four. All of them, and those
// of other NodePorts, differ in their ports. There are no clients inside the cluster.
func (r *race) serveSome(port uint16, backends int) {
	r.t.Helper()
	var all []netip.AddrPort
	for i := range uint16(backends) {
		all = append(all, at(r.backend(r.plan), backendPort+4*(port-nodePort)+i))
	}
	r.publish(service{frontend: at(r.any(), port), proto: r.proto, external: all})
}

// flow is the conversation of a round's client with a NodePort. Its backend is not known yet.
func (r *race) flow(round int, port uint16) *conversation {
	return &conversation{
		node: r.node, path: r.path, variant: r.variant,
		client:   at(r.client, uint16(1024+(r.base+round)%60_000)),
		frontend: at(r.front, port),
	}
}

// flows are those of a batch, all with one NodePort.
func (r *race) flows(size int) (all []*conversation) {
	for i := range size {
		all = append(all, r.flow(i, nodePort))
	}
	return all
}

// requestShot is a packet of the client; by default one that opens a flow.
func (c *conversation) requestShot(changes ...change) *shot {
	c.t.Helper()
	p := c.packet(c.client, c.frontend, seq(clientSeq)).with(changes...)
	if c.atEgress {
		return c.tcShot("waggle_ingress", front, p)
	}
	return c.xdpShot(front, p)
}

// replyShot is a packet of the backend; by default the first answer.
func (c *conversation) replyShot(changes ...change) *shot {
	c.t.Helper()
	p := c.packet(c.backend, c.source, synAck).with(changes...)
	if c.atEgress {
		return c.tcShot("waggle_egress", front, p)
	}
	return c.xdpShot(c.out, p)
}

// data is a packet with payload, of a client that has seen the SYN-ACK.
func data(p *packet) { *p = p.with(acked, flags("AP"), payload(20)) }

// answerData is a packet with payload, of a backend after its SYN-ACK.
func answerData(p *packet) {
	*p = p.with(flags("A"), seq((backendSeq+1)%(1<<32)), ack(clientSeq+1), payload(30))
}

// requestMove is the change of a client's packet that belongs to the flow.
func (c *conversation) requestMove() []change {
	changes := []change{from(c.source), to(c.backend)}
	if !c.atEgress {
		changes = append(changes, forwarded(c.out, c.backend.Addr()))
	}
	return changes
}

// replyMove is the change of a backend's packet that belongs to the flow.
func (c *conversation) replyMove() []change {
	changes := []change{from(c.frontend), to(c.client)}
	if !c.atEgress {
		changes = append(changes, forwarded(front, c.router))
	}
	return changes
}

// open sends the first packet, and notes where it went and from which source.
func (r *race) open(c *conversation) {
	r.t.Helper()
	s := r.fire(c.requestShot())
	if !s.moved() {
		r.t.Fatalf("the first packet: %v", s)
	}
	c.source, c.backend = s.ends()
}

// answer sends the backend's answer.
func (r *race) answer(c *conversation) {
	r.t.Helper()
	if s := r.fire(c.replyShot()); !s.became(c.replyMove()...) {
		r.t.Fatalf("the first answer: %v", s)
	}
}

// answered are a batch's flows, each of which waits for the client's second packet.
func (r *race) answered(size int) []*conversation {
	r.t.Helper()
	all := r.flows(size)
	for _, c := range all {
		r.open(c)
		r.answer(c)
	}
	return all
}

// requests and replies make a shot of each flow.
func requests(all []*conversation, changes ...change) (shots []*shot) {
	for _, c := range all {
		shots = append(shots, c.requestShot(changes...))
	}
	return shots
}

func replies(all []*conversation, changes ...change) (shots []*shot) {
	for _, c := range all {
		shots = append(shots, c.replyShot(changes...))
	}
	return shots
}

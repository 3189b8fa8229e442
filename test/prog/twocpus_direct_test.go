// SPDX-License-Identifier: Apache-2.0

package prog

import "testing"

// TestTwoCPUsDirect, of contract 44: an endpoint answers a service's SYN by an ACK of its direct connection with the
// client, and sends that connection's data, while the client repeats the SYN. The direct connection gets its packets,
// and the next SYN leaves from another port.
func TestTwoCPUsDirect(t *testing.T) {
	forEachRace(t, tcpVariants, []path{stack}, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy)
		r.serve(v, at(v.any(), nodePort), at(p.backend(v.plan), backendPort))
		r.batches(func(size int) {
			var acks, data, repeated []*shot
			all := r.flows(size)
			for _, c := range all {
				c.backend = at(p.backend(v.plan), backendPort)
				r.fire(c.requestShot())
				acks = append(acks, r.directShot(c, flags("A")))
				data = append(data, r.directShot(c, flags("A"), payload(20)))
				repeated = append(repeated, c.requestShot())
			}
			r.inStep(size, each(acks, repeated), each(data))
			for i, c := range all {
				r.directly(c, acks[i], data[i], repeated[i])
			}
		})
	})
}

// directShot is a packet of the direct connection, from the endpoint.
func (r *race) directShot(c *conversation, changes ...change) *shot {
	return r.tcShot("waggle_egress", front, c.packet(c.backend, c.client, changes...))
}

func (r *race) directly(c *conversation, ack, data, repeated *shot) {
	for _, s := range []*shot{ack, data, r.fire(r.directShot(c, flags("A"), payload(30)))} {
		if !s.untouched() {
			r.wrong("the direct connection loses a packet", "%v", s)
		}
	}
	again := r.fire(c.requestShot())
	if source, _ := again.ends(); !again.moved() || source == c.client {
		r.wrong("the service has the direct connection's tuple", "%v, after %v", again, repeated)
		return
	}
	c.source, _ = again.ends()
	answer := r.fire(r.tcShot("waggle_egress", front, c.packet(c.backend, c.source, synAck)))
	if !answer.became(from(c.frontend), to(c.client)) {
		r.wrong("the service's answer does not arrive", "%v", answer)
	}
}

// TestTwoCPUsDatagramsDirectly, of contract 44: a client's first datagram to an endpoint and its first one to the
// service that leads there, from one port. The endpoint can distinguish the two, and each answer shows the address that
// was asked. Every other time the service's flow is the first one of datagrams that the table has.
func TestTwoCPUsDatagramsDirectly(t *testing.T) {
	forEachRace(t, udpVariants, []path{stack}, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy)
		r.serve(v, at(v.any(), nodePort), at(p.backend(v.plan), backendPort))
		r.batches(func(size int) {
			var direct, first []*shot
			all, client := r.flows(size), r.client
			for _, c := range all {
				// a client each: no flow gets a port from which another client's direct datagram comes
				c.client = at(client, c.client.Port())
				client = client.Next()
				c.backend = at(p.backend(v.plan), backendPort)
				direct = append(direct, r.tcShot("waggle_ingress", front, c.packet(c.client, c.backend)))
				first = append(first, c.requestShot())
			}
			r.inStep(2*size, everyOther(func(round int) error {
				if round%2 == 0 {
					r.flowTable(v.client).forgetDatagrams()
				}
				return nil
			}, each(direct)), everyOther(func(int) error { return nil }, each(first)))
			for i, c := range all {
				r.distinguished(c, direct[i], first[i])
			}
		})
	})
}

// everyOther makes one round of two: both CPUs have ended the first function when they begin the second.
func everyOther(first, second func(round int) error) func(round int) error {
	return func(round int) error {
		if round%2 == 0 {
			return first(round / 2)
		}
		return second(round / 2)
	}
}

func (r *race) distinguished(c *conversation, direct, first *shot) {
	if !first.moved() {
		r.wrong("the service's datagram is not forwarded", "%v", first)
		return
	}
	source, _ := direct.ends()
	if c.source, _ = first.ends(); c.source == source {
		r.wrong("both have one source", "%v; %v", direct, first)
		return
	}
	r.returns(c, "the service's answer", r.fire(c.replyShot()))
	answer := r.fire(r.tcShot("waggle_egress", front, c.packet(c.backend, source)))
	if src, dst := answer.ends(); src != c.backend || dst != c.client {
		r.wrong("the endpoint's answer", "%v", answer)
	}
}

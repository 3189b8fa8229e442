// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/cilium/ebpf"
)

// twoPorts leaves SNAT two ports: one that a connection of the node's own leaves from, and another.
var twoPorts = setting{name: "two ports", apply: func(spec *ebpf.CollectionSpec) error {
	if err := spec.Variables["snat_min"].Set(uint16(50000)); err != nil {
		return err
	}
	return spec.Variables["snat_max"].Set(uint16(50001))
}}

// meeting is a connection of the node's own that leaves for a backend while a client's flow to the
// same backend opens.
type meeting struct {
	own           *own
	client        *conversation
	leaves, first *shot
}

// TestTwoCPUsOwn, of contract 43: the two have different ports, and each gets its answers.
func TestTwoCPUsOwn(t *testing.T) {
	forEachRace(t, variants, expressPaths, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy, twoPorts)
		for i := range batchSize {
			r.serveSome(contestPort+uint16(i), 1)
		}
		r.batches(func(size int) {
			var leaves, firsts []*shot
			all := r.meetings(size)
			for _, m := range all {
				leaves = append(leaves, m.leaves)
				firsts = append(firsts, m.first)
			}
			r.inStep(size, each(leaves), each(firsts))
			for _, m := range all {
				r.apart(m)
			}
		})
	})
}

func (r *race) meetings(size int) (all []meeting) {
	r.t.Helper()
	for i := range size {
		port := contestPort + uint16(i)
		client := r.flow(i, port)
		client.backend = at(r.backend(r.plan), backendPort+4*(port-nodePort))
		o := &own{node: r.node, variant: r.variant, out: r.out, self: at(r.out.addr(r.plan), 50000), peer: client.backend}
		all = append(all, meeting{
			own: o, client: client,
			leaves: r.tcShot("waggle_egress", r.out, o.packet(o.self, o.peer, seq(clientSeq))),
			first:  client.requestShot(),
		})
	}
	return all
}

func (r *race) apart(m meeting) {
	r.t.Helper()
	if !m.first.moved() {
		r.wrong("the client's packet is not forwarded", "%v", m.first)
		return
	}
	m.own.port, _ = m.leaves.ends()
	m.client.source, _ = m.first.ends()
	if m.own.port == m.client.source {
		r.wrong("both have one port", "%v; %v", m.leaves, m.first)
		return
	}
	r.returns(m.client, "the answer to the client", r.fire(m.client.replyShot()))
	answer := m.own.packet(m.own.peer, m.own.port, synAck)
	s := r.fire(r.tcShot("waggle_ingress", m.own.out, answer))
	if _, dst := s.ends(); dst != m.own.self || s.action != tcNext {
		r.wrong("the answer to the node does not arrive", "%v, but it asked from %v", s, m.own.self)
	}
}

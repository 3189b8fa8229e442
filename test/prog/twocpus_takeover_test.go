// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/cilium/ebpf"
)

// onePort leaves SNAT one port, so that each flow to a backend takes it from the one before.
var onePort = setting{name: "one port", apply: func(spec *ebpf.CollectionSpec) error {
	for _, name := range []string{"snat_min", "snat_max"} {
		if err := spec.Variables[name].Set(uint16(50000)); err != nil {
			return err
		}
	}
	return nil
}}

// contest is two clients of one backend, which knows both by the same address and port. The first
// one has been answered, and acknowledges this while the second one opens its flow.
type contest struct {
	owner, taker *conversation
	ack, first   *shot
}

// TestTwoCPUsTakeOver: a new flow takes the source port of an unconfirmed one while that one's ACK
// confirms it. One of them has the port afterwards, and gets the answers that are sent to it.
func TestTwoCPUsTakeOver(t *testing.T) {
	forEachRace(t, variants, expressPaths, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy, onePort)
		for i := range batchSize {
			r.serveSome(contestPort+uint16(i), 1)
		}
		r.batches(func(size int) {
			var acks, firsts []*shot
			all := r.contests(size)
			for _, c := range all {
				acks = append(acks, c.ack)
				firsts = append(firsts, c.first)
			}
			r.inStep(size, each(acks), each(firsts))
			for _, c := range all {
				r.decided(c)
			}
		})
	})
}

// contestPort is the first of the NodePorts. Each round of a batch has its own.
const contestPort = nodePort + 100

func (r *race) contests(size int) (all []contest) {
	r.t.Helper()
	for i := range size {
		owner := r.flow(i, contestPort+uint16(i))
		r.open(owner)
		r.answer(owner)
		taker := owner.rival(0)
		all = append(all, contest{owner, taker, owner.requestShot(acked), taker.requestShot()})
	}
	return all
}

// rival is the conversation of another client that would get the same port.
func (c *conversation) rival(i uint16) *conversation {
	rival := *c
	rival.client = at(c.client2, c.client.Port()+i)
	return &rival
}

func (r *race) decided(c contest) {
	r.t.Helper()
	if c.first.moved() {
		r.notConfirmed(c)
	}
	if !r.holds("the owner", c.owner) {
		r.holds("the taker", c.taker)
		return
	}
	// the answer is acknowledged now, if it was not before: no other flow has the port
	if !r.holds("the owner", c.owner) {
		r.wrong("the owner of the port loses it", "%v", c.owner.client)
	}
	if s := r.fire(c.taker.requestShot()); s.moved() {
		r.wrong("two clients send by one port", "%v, and so did %v", s, c.owner.client)
	}
	r.holds("the owner", c.owner)
}

// notConfirmed: the taker has got the port, so the flow that had it was not confirmed. An
// unconfirmed flow's port can be taken over again.
func (r *race) notConfirmed(c contest) {
	r.t.Helper()
	if s := r.fire(c.owner.rival(1).requestShot()); !s.moved() {
		r.wrong("the port was given away, and its flow confirmed", "%v; %v; but then %v", c.first, c.ack, s)
	}
}

// holds reports whether a client's data goes out by the port. If so, the answer must come back.
func (r *race) holds(name string, c *conversation) bool {
	r.t.Helper()
	s := r.fire(c.requestShot(data))
	if !s.moved() {
		return false
	}
	r.leads(c, name+"'s data", s)
	r.returns(c, "the answer to "+name, r.fire(c.replyShot(answerData)))
	return true
}

// SPDX-License-Identifier: Apache-2.0

package prog

import "testing"

// TestTwoCPUsConfirmAndData: the ACK and the first data of a client are on two CPUs. Both go to the
// same backend, from the same source as the SYN.
func TestTwoCPUsConfirmAndData(t *testing.T) {
	forEachRace(t, variants, racePaths, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy)
		r.serveSome(nodePort, 4)
		r.batches(func(size int) {
			all := r.answered(size)
			acks, first := requests(all, acked), requests(all, data)
			r.inStep(size, each(acks), each(first))
			for i, c := range all {
				r.leads(c, "the ACK", acks[i])
				r.leads(c, "the data", first[i])
			}
		})
	})
}

// TestTwoCPUsConfirmAndAnswer: the backend sends while the client's ACK confirms the flow. The
// client gets all of it.
func TestTwoCPUsConfirmAndAnswer(t *testing.T) {
	forEachRace(t, variants, racePaths, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy)
		r.serveSome(nodePort, 1)
		r.batches(func(size int) {
			all := r.answered(size)
			acks := requests(all, acked)
			answers := [][]*shot{replies(all, answerData), replies(all, answerData), replies(all, answerData)}
			r.inStep(size, each(acks), each(answers...))
			for i, c := range all {
				r.leads(c, "the ACK", acks[i])
				for _, some := range answers {
					r.returns(c, "an answer", some[i])
				}
			}
		})
	})
}

// leads expects that a packet of the client goes where the flow's first one went.
func (r *race) leads(c *conversation, what string, s *shot) {
	r.t.Helper()
	switch {
	case s.became(c.requestMove()...):
	case !s.moved():
		r.wrong(what+" is not forwarded", "%v", s)
	default:
		r.wrong(what+" goes another way than the first packet", "%v, but the first from %v to %v", s, c.source, c.backend)
	}
}

// returns expects that a packet of the backend goes to the client.
func (r *race) returns(c *conversation, what string, s *shot) {
	r.t.Helper()
	switch {
	case s.became(c.replyMove()...):
	case s.untouched():
		r.wrong(what+" is left untranslated", "%v", s)
	default:
		r.wrong(what+" does not go to the client", "%v, but the client is %v", s, c.client)
	}
}

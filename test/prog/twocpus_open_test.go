// SPDX-License-Identifier: Apache-2.0

package prog

import "testing"

// TestTwoCPUsOpen, of contract 55: the first two packets of a flow are on two CPUs. Both go to the
// same backend from the same source, the backend's answer comes back, and later packets go the same
// way.
func TestTwoCPUsOpen(t *testing.T) { twoCPUsOpen(t) }

// TestTwoCPUsOpenWeaklyOrdered: the same by the steps of weakly ordered processors. That the order of memory is right
// there only such a processor can show, or the model; whether these steps are right is shown here.
func TestTwoCPUsOpenWeaklyOrdered(t *testing.T) { twoCPUsOpen(t, weaklyOrdered) }

func twoCPUsOpen(t *testing.T, settings ...setting) {
	forEachRace(t, variants, racePaths, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, append(settings, roomy)...)
		r.serveSome(nodePort, 4)
		r.batches(func(size int) {
			all := r.flows(size)
			first, second := requests(all), requests(all)
			r.inStep(size, each(first), each(second))
			for i, c := range all {
				r.openedOnce(c, first[i], second[i])
			}
		})
	})
}

func (r *race) openedOnce(c *conversation, first, second *shot) {
	r.t.Helper()
	if !first.moved() || !second.moved() {
		r.wrong("one of the first packets is not forwarded", "%v; %v", first, second)
		return
	}
	c.source, c.backend = first.ends()
	if !second.became(c.requestMove()...) {
		r.wrong("the first two packets go different ways", "%v; %v", first, second)
		return
	}
	r.returns(c, "the answer", r.fire(c.replyShot()))
	r.leads(c, "the ACK", r.fire(c.requestShot(acked)))
}

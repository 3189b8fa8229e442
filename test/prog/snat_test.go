// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

const fewPorts = 4

// withFewPorts leaves SNAT only a few ports.
func withFewPorts(t *testing.T, more ...setting) *node {
	t.Helper()
	return newNode(t, append(more, variable("snat_min", uint16(50000)), variable("snat_max", uint16(50000+fewPorts-1)))...)
}

// useAllPorts establishes as many flows as there are ports, each with its own.
func useAllPorts(c *conversation) (all []*conversation) {
	c.t.Helper()
	used := make(map[netip.AddrPort]bool)
	for range fewPorts {
		c.establish()
		used[c.source] = true
		all = append(all, c)
		c = c.again()
	}
	equal(c.t, "source ports in use", fewPorts, len(used))
	return all
}

func open(c *conversation)      { c.request() }
func establish(c *conversation) { c.establish() }

// halfOpen opens unconfirmed flows until each port was used. They take ports from each other.
func halfOpen(c *conversation) (all []*conversation) {
	c.t.Helper()
	used := make(map[netip.AddrPort]bool)
	for len(used) < fewPorts && len(all) < 1000 {
		c.request()
		used[c.source] = true
		all = append(all, c)
		c = c.again()
	}
	equal(c.t, "source ports in use", fewPorts, len(used))
	return all
}

// exhausted expects that the next client gets no port, and leaves no record.
func exhausted(c *conversation) {
	c.t.Helper()
	before := c.size(c.variant)
	c.xdp(front, c.packet(c.client, c.frontend)).dropped(bpf.VerdictDropSNATExhausted)
	equal(c.t, "records", before, c.size(c.variant))
}

// TestSNATExhausted: established flows use ports up, but separately for each backend.
func TestSNATExhausted(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(withFewPorts(t), v, otherDevice)
		all := useAllPorts(c)
		exhausted(all[fewPorts-1].again())
		all[0].reply() // the owner of a port still has it

		other := all[fewPorts-1].again()
		other.backend, other.frontend = at(v.far2, backendPort), at(v.vip, 80)
		other.serve(v, other.frontend, other.backend)
		useAllPorts(other)
	})
}

// TestSNATHalfOpen: clients that never answer may use all ports, but keep none from others: the
// next client takes one over, and its former owner starts anew.
func TestSNATHalfOpen(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(withFewPorts(t), v, otherDevice)
		all := halfOpen(c)
		next := all[len(all)-1].again()
		next.establish()
		var loser *conversation
		for _, other := range all {
			if other.source == next.source {
				loser = other
			}
		}
		if loser == nil {
			t.Fatalf("the source port %s was free", next.source)
		}
		loser.forget()
		loser.request()
		loser.had(bpf.VerdictFlowOpened)
		if loser.source == next.source {
			t.Errorf("an established flow lost its port %s", next.source)
		}
		next.request(acked, payload(5))
		next.reply(flags("A"), payload(5))
		next.standsConfirmed()
	})
}

// aSecond is one in jiffies, shorter than any timeout.
const aSecond = 1000

// withOldAndYoung leaves SNAT only a few ports, and makes a second short enough for flows to be silent so long.
func withOldAndYoung(t *testing.T) *node {
	return withFewPorts(t, variable("hz", uint32(aSecond)))
}

// portOwners opens unconfirmed flows until each port was used, and returns the flow that has each, and the last.
func portOwners(c *conversation) (owners map[netip.AddrPort]*conversation, last *conversation) {
	c.t.Helper()
	owners = map[netip.AddrPort]*conversation{}
	for _, c = range halfOpen(c) {
		owners[c.source] = c
	}
	return owners, c
}

// young makes the flow's last packet one that will come in a second: it stays young while a test runs.
func (c *conversation) young() {
	c.t.Helper()
	for _, k := range c.keys()[:2] {
		c.alter(k, func(r *record) { r.LastSeen = c.jiffies() + aSecond })
	}
}

// TestSNATPortOfFreshFlow: if half-open flows have all ports, one that has been silent for some time
// gives way, not one whose answer may be on its way.
func TestSNATPortOfFreshFlow(t *testing.T) {
	for _, ages := range []struct{ silent, fresh uint32 }{
		{aSecond, aSecond / 8},
		{aSecond / 8, aSecond / 64},
		{aSecond / 64, 2},
		{2, 0},
	} {
		t.Run(fmt.Sprintf("%d jiffies", ages.silent), func(t *testing.T) {
			forEach(t, func(t *testing.T, v variant) {
				owners, c := portOwners(converse(withOldAndYoung(t), v, otherDevice))
				for range 10 {
					for _, owner := range owners {
						owner.ageBy(ages.silent, 0, 1)
					}
					c.ageBy(ages.fresh, 0, 1)
					if ages.fresh == 0 {
						c.young()
					}
					next := c.again()
					next.request()
					if next.source == c.source {
						t.Fatalf("a flow lost its port %s at once, beside silent ones", c.source)
					}
					c = next
					owners[c.source] = c
				}
			})
		})
	}
}

// TestSNATPortOfOnlySilentFlow: beside young flows the one that is silent gives way, also where it
// is not among the first that are looked at.
func TestSNATPortOfOnlySilentFlow(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		owners, c := portOwners(converse(withOldAndYoung(t), v, otherDevice))
		for range 10 {
			for _, owner := range owners {
				owner.young()
			}
			silent := c
			silent.ageBy(2, 0, 1)
			c = c.again()
			c.request()
			if c.source != silent.source {
				t.Fatalf("a young flow lost its port %s, not the silent one %s", c.source, silent.source)
			}
			owners[c.source] = c
		}
	})
}

// TestSNATPortOfOneThatAsksAgain: a client that got no answer asks again from the same port. The
// answer to that may be on its way, too.
func TestSNATPortOfOneThatAsksAgain(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		owners, c := portOwners(converse(withOldAndYoung(t), v, otherDevice))
		for range 10 {
			for _, owner := range owners {
				owner.ageBy(aSecond/8, 0, 1)
			}
			asks := c
			asks.request()
			asks.had() // it has a record already
			c = c.again()
			c.request()
			if c.source == asks.source {
				t.Fatalf("a flow that has asked again lost its port %s at once, beside silent ones", asks.source)
			}
			owners[c.source] = c
		}
	})
}

// TestSNATPortsOfYoung: if all ports are those of young half-open flows, one gives way none the less.
func TestSNATPortsOfYoung(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		owners, c := portOwners(converse(withOldAndYoung(t), v, otherDevice))
		for _, owner := range owners {
			owner.young()
		}
		c.again().establish()
	})
}

// TestSNATPortsComeBack: a port is free again when its record has expired.
func TestSNATPortsComeBack(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(withFewPorts(t), v, otherDevice)
		all := useAllPorts(c)
		last := all[fewPorts-1].again()
		exhausted(last)
		all[2].age(0, 1)
		last.establish()
		equal(t, "source", all[2].source, last.source)
		exhausted(last.again())
	})
}

// TestSNATPortOfClosed: a closed connection keeps its port during its TIME_WAIT.
func TestSNATPortOfClosed(t *testing.T) {
	for _, v := range connected {
		t.Run(v.name, func(t *testing.T) {
			c := converse(withFewPorts(t), v, otherDevice)
			all := useAllPorts(c)
			all[1].request(acked, flags("FA"))
			all[1].reply(flags("FA"))
			last := all[fewPorts-1].again()
			exhausted(last)
			all[1].age(0, 1)
			last.establish()
			equal(t, "source", all[1].source, last.source)
		})
	}
}

// TestSNATPortOfBackend: a pod serves a port of the SNAT range. If it were also the client of its
// own client, its packets between the two hooks would have the answers' tuple. That flow stays, and
// the new one does not open with this port.
func TestSNATPortOfBackend(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		const port = 50000
		n := newNode(t, variable("masquerade_all", true),
			variable("snat_min", uint16(port)), variable("snat_max", uint16(port)))
		asked := converse(n, v, stack)
		asked.client, asked.backend = at(v.far, backendPort), at(v.pod, port)
		n.serve(v, at(v.any(), nodePort), asked.backend)
		asked.establish()

		c := clusterIP(n, v, fromPod, v.pod, v.far)
		n.podIngress(pod0, c.packet(c.client, c.frontend)).dropped(bpf.VerdictDropSNATExhausted)
		equal(t, "records", 2, n.size(v))
		asked.request(acked, payload(5))
		asked.reply(flags("A"))

		asked.age(0, 1)
		c.establish()
	})
}

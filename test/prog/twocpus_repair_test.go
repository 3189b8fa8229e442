// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

const (
	// crowdPort is the first of the NodePorts. Each client has its own.
	crowdPort = nodePort + 100
	// strangersPort is the NodePort of other clients. Its backend is another host.
	strangersPort = nodePort + 200
)

// crowd is clients that open flows and are answered, but never acknowledge it, in a table too small
// for all of them: a lost record of one flow is restored where another's was, or its own.
type crowd struct {
	*race
	clients   []*conversation
	strangers *conversation
}

func newCrowd(t *testing.T, v variant, p path, size int) *crowd {
	t.Helper()
	c := &crowd{race: newRace(t, v, p, oneSet)}
	for i := range size {
		port := crowdPort + uint16(i)
		c.serveSome(port, 1)
		client := c.flow(i, port)
		client.backend = at(p.backend(v.plan), backendPort+4*(port-nodePort))
		c.clients = append(c.clients, client)
	}
	c.publish(service{
		frontend: at(v.any(), strangersPort), proto: v.proto,
		external: []netip.AddrPort{at(v.far2, backendPort)},
	})
	c.strangers = c.flow(0, strangersPort)
	c.strangers.client = at(v.client2, 1024)
	return c
}

// TestRepairInFullTable: whatever record of a flow is lost and restored, in whatever place, a
// client's packets go to its backend, and a backend's to its client.
func TestRepairInFullTable(t *testing.T) {
	forEachRace(t, connected, expressPaths, func(t *testing.T, v variant, p path) {
		c := newCrowd(t, v, p, int(bpf.Ways)/p.halves+1)
		c.rounds /= 10 // of many packets each
		random := rand.New(rand.NewPCG(1, 2))
		c.batches(func(size int) {
			for range size {
				c.fill(random)
				for range 10 {
					c.turn(c.clients[random.IntN(len(c.clients))], random)
				}
			}
		})
	})
}

// fill makes all clients but one fill the table and use their records. One of them loses a record,
// so that there is room for one but not for two when the last client comes.
func (c *crowd) fill(random *rand.Rand) {
	c.t.Helper()
	c.emptyFlows()
	random.Shuffle(len(c.clients), func(i, j int) { c.clients[i], c.clients[j] = c.clients[j], c.clients[i] })
	most, last := c.clients[1:], c.clients[0]
	for range 2 {
		for _, client := range most {
			c.speak(client)
		}
	}
	c.lose(most[0].keys()[random.IntN(2)])
	for range 2 {
		c.speak(last)
	}
}

// turn mostly sends a packet of the client or of its backend. Sometimes another client's flow
// replaces a record, or a record is lost, or the client starts anew.
func (c *crowd) turn(client *conversation, random *rand.Rand) {
	c.t.Helper()
	switch what := random.IntN(20); {
	case what == 0:
		c.fire(c.stranger())
	case what == 1:
		c.ledOrLost(client, c.fire(client.requestShot(flags("R"))))
	case what == 2:
		c.lose(client.replyKey())
	case what < 8 && client.source.IsValid():
		c.returnedOrLost(client, c.fire(client.replyShot()))
	default:
		c.speak(client)
	}
}

// speak sends the client's first packet, possibly a second time.
func (c *crowd) speak(client *conversation) {
	c.t.Helper()
	if s := c.fire(client.requestShot()); c.ledOrLost(client, s) {
		client.source, _ = s.ends()
	}
}

// lose removes a record, if it exists, as another client's flow may.
func (c *crowd) lose(k tuple) {
	c.t.Helper()
	if _, ok := c.lookup(k); ok {
		c.remove(k)
	}
}

// stranger is the first packet of the next other client.
func (c *crowd) stranger() *shot {
	c.t.Helper()
	c.strangers = c.strangers.again()
	return c.strangers.requestShot()
}

// TestTwoCPUsRepair: other clients open flows on one CPU, while on the other CPU clients' packets
// restore the records that these replaced, and are answered. Each other client's first packet comes
// twice, so that its records look as if they were needed.
func TestTwoCPUsRepair(t *testing.T) {
	forEachRace(t, connected, expressPaths, func(t *testing.T, v variant, p path) {
		c := newCrowd(t, v, p, 3)
		c.batches(c.besideStrangers)
	})
}

func (c *crowd) besideStrangers(size int) {
	c.t.Helper()
	var ours [][]exchange
	var theirs [][]*shot
	for range size {
		ours = append(ours, c.exchanges())
		first := c.stranger()
		theirs = append(theirs, []*shot{first, c.strangers.requestShot()})
	}
	c.inStep(size,
		func(round int) error { return runAll(ours[round], exchange.run) },
		func(round int) error { return runAll(theirs[round], (*shot).run) })
	for _, some := range ours {
		for i, x := range some {
			c.ledOrLost(c.clients[i], x.request)
			c.returnedOrLost(c.clients[i], x.reply)
		}
	}
}

func runAll[T any](all []T, run func(T) error) error {
	for _, one := range all {
		if err := run(one); err != nil {
			return err
		}
	}
	return nil
}

// exchange is a client's packet and the backend's answer, which is sent to the packet's source.
type exchange struct{ request, reply *shot }

func (x exchange) run() error {
	if err := x.request.run(); err != nil {
		return err
	}
	source, _ := x.request.ends()
	x.reply.redirect(source.Port())
	return x.reply.run()
}

// exchanges are one for each client.
func (c *crowd) exchanges() (all []exchange) {
	c.t.Helper()
	for _, client := range c.clients {
		client.source = at(c.out.addr(c.plan), snatMin)
		all = append(all, exchange{client.requestShot(), client.replyShot()})
	}
	return all
}

// ledOrLost reports whether a client's packet goes to its backend, from a source that is ours. It
// may also be dropped or left to tc, but go nowhere else.
func (c *crowd) ledOrLost(client *conversation, s *shot) bool {
	c.t.Helper()
	src, dst := s.ends()
	switch {
	case s.action == xdpDrop, s.untouched():
		return false
	case dst == client.client:
		c.wrong("a client's packet goes to the client itself", "%v", s)
	case !s.moved() || src.Addr() != c.out.addr(c.plan) || dst != client.backend:
		c.wrong("a client's packet does not go to its backend", "%v", s)
	default:
		return true
	}
	return false
}

// returnedOrLost expects that a backend's packet goes to its client, or is left alone if its flow
// is unknown.
func (c *crowd) returnedOrLost(client *conversation, s *shot) {
	c.t.Helper()
	src, dst := s.ends()
	switch {
	case s.untouched():
	case dst == client.backend:
		c.wrong("a backend's packet goes to the backend itself", "%v", s)
	case !s.moved() || src != client.frontend || dst != client.client:
		c.wrong("a backend's packet does not go to its client", "%v", s)
	}
}

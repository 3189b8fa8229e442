// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"container/heap"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// simulation is a group of nodes on a network that loses, delays, repeats and reorders messages, with a failure detector
// as good as the protocol presumes.
type simulation struct {
	t      *testing.T
	rng    *rand.Rand
	timing Timing
	now    time.Duration
	queue  events
	order  int
	nodes  []*simNode
	addrs  []netip.Addr
	quiet  bool // no more faults
	loss   float64
	log    []string
	failed bool
	moves  int
}

type simEvent struct {
	at    time.Duration
	order int
	run   func()
}

type events []simEvent

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].order < e[j].order
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(simEvent)) }
func (e *events) Pop() any {
	old := *e
	last := old[len(old)-1]
	*e = old[:len(old)-1]
	return last
}

// simNode is a node: its kernel, which outlives processes of the agent, and the process, if one runs.
type simNode struct {
	s      *simulation
	name   string
	kernel map[netip.Addr]bool
	until  time.Duration

	p       *protocol // nil: no process
	boots   int
	paused  bool
	pending []func() // what comes while it is paused
	seen    map[string]bool
	silent  time.Duration // since when, while it does not react; -1: it does
	offers  map[netip.Addr]Offer
}

func newSimulation(t *testing.T, seed uint64) *simulation {
	s := &simulation{t: t, rng: rand.New(rand.NewPCG(seed, 1)), timing: DefaultTiming}
	s.timing.Block = 5 * time.Second
	s.loss = s.rng.Float64() * 0.2
	for i := range 1 + s.rng.IntN(6) {
		s.addrs = append(s.addrs, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}))
	}
	for i := range 2 + s.rng.IntN(5) {
		n := &simNode{s: s, name: fmt.Sprint("n", i), kernel: map[netip.Addr]bool{}, silent: 0}
		s.nodes = append(s.nodes, n)
		s.after(s.between(0, 3*time.Second), n.start)
	}
	return s
}

func (s *simulation) between(a, b time.Duration) time.Duration {
	return a + time.Duration(s.rng.Int64N(int64(b-a)+1))
}

func (s *simulation) after(d time.Duration, run func()) {
	s.order++
	heap.Push(&s.queue, simEvent{s.now + d, s.order, run})
}

func (s *simulation) note(format string, args ...any) {
	s.log = append(s.log, fmt.Sprintf("%8.3f ", s.now.Seconds())+fmt.Sprintf(format, args...))
}

// run runs events until then, and looks at the kernels after each.
func (s *simulation) run(until time.Duration) {
	for len(s.queue) > 0 && s.queue[0].at <= until && !s.failed {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.run()
		s.check()
	}
	s.now = until
}

// check: never do two kernels answer for one address.
func (s *simulation) check() {
	for _, a := range s.addrs {
		var holders []string
		for _, n := range s.nodes {
			if n.kernel[a] && s.now < n.until {
				holders = append(holders, n.name)
			}
		}
		if len(holders) > 1 && !s.failed {
			s.failed = true
			s.t.Errorf("%v: %s is answered for by %v\n%s", s.now, a, holders, strings.Join(s.log[max(0, len(s.log)-120):], "\n"))
		}
	}
}

// node's effects

func (n *simNode) hold(a netip.Addr) error {
	if n.s.rng.IntN(50) == 0 && !n.s.quiet {
		return errors.New("simulated")
	}
	n.s.note("%s holds %s", n.name, a)
	n.s.moves++
	n.kernel[a] = true
	return nil
}

func (n *simNode) release(a netip.Addr) error {
	n.s.note("%s releases %s", n.name, a)
	delete(n.kernel, a)
	return nil
}

func (n *simNode) extend(until time.Duration) (lapsed bool, err error) {
	if n.until != 0 && n.s.now >= n.until {
		return true, errors.New("lapsed")
	}
	n.until = until
	return false, nil
}

func (n *simNode) restart() error {
	clear(n.kernel)
	n.until = 0
	return nil
}

func (n *simNode) clock() time.Duration { return n.s.now }
func (n *simNode) since() int64         { return 1 + int64(n.s.now/time.Second) }

func (n *simNode) probe(addrs []netip.Addr) {
	for _, a := range addrs {
		n.later(n.s.between(100*time.Millisecond, 700*time.Millisecond), func(p *protocol) {
			other := ""
			if n.s.rng.IntN(20) == 0 && !n.s.quiet {
				other = "02:00:00:00:00:01"
			}
			for _, o := range n.s.nodes { // the last of its members may have died while it restarts
				if o != n && o.kernel[a] && n.s.now < o.until {
					other = o.name
				}
			}
			p.probed(n.s.now, a, other, nil)
		})
	}
}

func (n *simNode) send(to string, m *message) {
	raw, err := m.encode()
	if err != nil {
		n.s.t.Fatal(err)
	}
	copies := 1
	if n.s.rng.IntN(20) == 0 {
		copies = 2
	}
	for range copies {
		if n.s.rng.Float64() < n.s.loss && !n.s.quiet {
			continue
		}
		delay := n.s.between(100*time.Microsecond, 20*time.Millisecond)
		if n.s.rng.IntN(20) == 0 && !n.s.quiet {
			delay = n.s.between(0, 2*time.Second)
		}
		for _, other := range n.s.nodes {
			if other.name == to {
				other.later(delay, func(p *protocol) {
					got, err := decode(raw)
					if err != nil {
						n.s.t.Fatal(err)
					}
					p.received(n.s.now, n.name, got)
				})
			}
		}
	}
}

// later gives an event to the process, if the one runs then that runs now, or to the next one where it comes from elsewhere.
func (n *simNode) later(d time.Duration, event func(*protocol)) {
	boot := n.boots
	n.s.after(d, func() {
		n.give(func() {
			if n.p != nil && n.boots == boot {
				event(n.p)
			}
		})
	})
}

func (n *simNode) give(event func()) {
	if n.paused {
		n.pending = append(n.pending, event)
		return
	}
	event()
}

// start starts the agent.
func (n *simNode) start() {
	if n.p != nil {
		return
	}
	n.boots++
	n.p = newProtocol(n.name, fmt.Sprint(n.name, "-", n.boots), n.s.timing, n, n.s.now)
	n.seen = map[string]bool{}
	n.silent = -1
	n.s.note("%s starts, process %d", n.name, n.boots)
	held := map[netip.Addr]int64{}
	for a := range n.kernel {
		held[a] = 1
	}
	n.p.resume(held, n.until)
	n.reconnect()
	n.s.after(n.s.between(0, time.Second), func() { n.give(n.renew) })
	boot := n.boots
	n.beat(boot)
}

// reconnect reaches those that listen, and they know it soon.
func (n *simNode) reconnect() {
	n.later(n.s.between(5*time.Millisecond, 300*time.Millisecond), func(p *protocol) {
		for _, other := range n.s.nodes {
			if other == n || other.p == nil || other.paused {
				continue
			}
			n.meet(other)
			n.s.after(n.s.between(0, 100*time.Millisecond), func() { other.give(func() { other.meet(n) }) })
		}
		p.contacted(n.s.now, true)
	})
}

// meet: the process finds another one alive.
func (n *simNode) meet(other *simNode) {
	if n.p == nil || other.p == nil || n.seen[other.name] {
		return
	}
	n.seen[other.name] = true
	n.p.joined(n.s.now, other.name)
}

func (n *simNode) beat(boot int) {
	if n.p == nil || n.boots != boot {
		return
	}
	n.give(func() {
		if n.p != nil && n.boots == boot {
			n.p.beat(n.s.now)
			n.detect()
		}
	})
	n.s.after(n.s.between(n.s.timing.Beat*9/10, n.s.timing.Beat*11/10), func() { n.beat(boot) })
}

// detect is the failure detector: who has been silent for long enough is dead, at different times for different nodes.
func (n *simNode) detect() {
	for _, other := range n.s.nodes {
		if other == n || n.p == nil {
			continue
		}
		silent := other.silent >= 0
		switch {
		case n.seen[other.name] && silent && n.s.now-other.silent >= n.s.timing.SilentFor+200*time.Millisecond+n.s.between(0, 300*time.Millisecond):
			delete(n.seen, other.name)
			n.p.died(n.s.now, other.name)
		case !n.seen[other.name] && !silent && n.p.contact:
			n.meet(other)
		}
	}
	n.p.tick(n.s.now)
}

// renew has the node offer something else.
func (n *simNode) renew() {
	if n.p == nil {
		return
	}
	n.offers = map[netip.Addr]Offer{}
	for _, a := range n.s.addrs {
		o := Offer{Last: n.s.rng.IntN(5) == 0, Weight: int32(n.s.rng.IntN(2))}
		switch n.s.rng.IntN(8) {
		case 0:
			o.Not = Endpoint
		case 1:
			o.Not = Carrier
		case 2:
			continue
		}
		n.offers[a] = o
	}
	n.p.offer(n.s.now, n.offers)
}

// fault lets something happen to a node.
func (s *simulation) fault() {
	if s.quiet {
		return
	}
	n := s.nodes[s.rng.IntN(len(s.nodes))]
	switch s.rng.IntN(5) {
	case 0: // it is killed
		if n.p != nil && !n.paused {
			s.note("%s is killed", n.name)
			n.p, n.silent = nil, s.now
			s.after(s.between(10*time.Millisecond, 6*time.Second), n.start)
		}
	case 1: // it is stopped, and goes on
		if n.p != nil && !n.paused {
			s.note("%s stops", n.name)
			n.paused, n.silent = true, s.now
			s.after(s.between(10*time.Millisecond, 4*time.Second), func() {
				s.note("%s goes on", n.name)
				n.paused, n.silent = false, -1
				if n.p == nil {
					n.silent = s.now
				}
				pending := n.pending
				n.pending = nil
				s.rng.Shuffle(len(pending), func(i, j int) { pending[i], pending[j] = pending[j], pending[i] })
				for _, e := range pending {
					e()
				}
			})
		}
	case 2: // it is restarted
		if n.p != nil && !n.paused {
			s.note("%s restarts", n.name)
			n.p.leave(s.now)
			n.end(n.boots, s.now+time.Second)
		}
	default:
		n.give(n.renew)
	}
	s.after(s.between(50*time.Millisecond, 3*time.Second), s.fault)
}

// end ends the process when all members have noted that it restarts, or haven't for long.
func (n *simNode) end(boot int, deadline time.Duration) {
	if n.p == nil || n.boots != boot {
		return
	}
	if !n.paused && (n.p.left() || n.s.now >= deadline) {
		n.s.note("%s has ended, %v", n.name, n.p.left())
		n.p, n.silent = nil, n.s.now
		n.s.after(n.s.between(100*time.Millisecond, 20*time.Second), n.start)
		return
	}
	n.s.after(10*time.Millisecond, func() { n.end(boot, deadline) })
}

// settled: when nothing happens any more each address is answered for by the node that is chosen, if one is.
func (s *simulation) settled() {
	s.quiet = true
	s.run(s.now + 40*time.Second)
	for _, a := range s.addrs {
		var all []candidate
		for _, n := range s.nodes {
			if o, ok := n.offers[a]; ok && o.Not == Offered {
				all = append(all, candidate{n.name, o})
			}
		}
		best, some := choose(a, all)
		for _, n := range s.nodes {
			if holds := n.kernel[a] && s.now < n.until; holds != (some && n.name == best.name) && !s.failed {
				s.failed = true
				s.t.Errorf("%s: %s holds it: %v; chosen is %s\n%s", a, n.name, holds, best.name, strings.Join(s.log[max(0, len(s.log)-80):], "\n"))
			}
		}
	}
}

func simulate(t *testing.T, seed uint64) *simulation {
	t.Helper()
	s := newSimulation(t, seed)
	s.after(time.Second, s.fault)
	s.run(60 * time.Second)
	s.settled()
	return s
}

var seeds = flag.Uint64("seeds", 60, "how many simulations to run")

func TestSimulation(t *testing.T) {
	moves := 0
	for seed := range *seeds {
		s := simulate(t, seed)
		moves += s.moves
		if t.Failed() {
			t.Fatalf("seed %d", seed)
		}
	}
	if moves < 500 {
		t.Errorf("only %d times a node began to answer", moves)
	}
}

// FuzzSimulation looks for a seed with which two nodes answer at one time, or none in the end.
func FuzzSimulation(f *testing.F) {
	for seed := range uint64(5) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) { simulate(t, seed) })
}

// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// claim is the wish to answer for addresses, until all members have agreed to it, or have denied it.
type claim struct {
	number uint64
	resume bool
	addrs  map[netip.Addr]progress
	asked  map[string]time.Duration // when each member was
	waits  map[string]bool          // members that have not answered
}

// progress is how far a claim of an address is.
type progress int

const (
	asking  progress = iota
	probing          // the network is asked whether a host has it
	free             // no host has it, or members have held it before
)

// claim asks all members for addresses.
func (p *protocol) claim(addrs []netip.Addr, resume bool) {
	if len(addrs) == 0 {
		return
	}
	p.lastClaim++
	c := &claim{number: p.lastClaim, resume: resume, addrs: map[netip.Addr]progress{}, asked: map[string]time.Duration{}, waits: map[string]bool{}}
	for _, a := range addrs {
		c.addrs[a] = asking
		p.claimed[a] = c
	}
	p.claims[c.number] = c
	for _, name := range p.alive() {
		p.ask(c, name)
	}
}

func (p *protocol) ask(c *claim, name string) {
	c.asked[name] = p.now
	c.waits[name] = true
	m := &message{Kind: kindClaim, Claim: c.number, Resume: c.resume, Ready: p.ready, Seq: p.seq}
	for a := range c.addrs {
		m.Records = append(m.Records, Record{Addr: a, Offer: p.own(a)})
	}
	p.send(name, m)
}

func (p *protocol) resend(c *claim) {
	for _, name := range slices.Sorted(maps.Keys(c.waits)) {
		if p.now-c.asked[name] >= p.timing.Resend {
			p.ask(c, name)
		}
	}
}

// withdraw takes an address out of a claim: agreements to it count for nothing from now on.
func (p *protocol) withdraw(c *claim, a netip.Addr) {
	delete(c.addrs, a)
	delete(p.claimed, a)
	if len(c.addrs) == 0 {
		delete(p.claims, c.number)
	}
}

func (p *protocol) dropClaims() {
	for _, c := range p.claims {
		for a := range c.addrs {
			p.withdraw(c, a)
			p.dirty[a] = true
		}
	}
}

// onClaim answers a claim of another member.
func (p *protocol) onClaim(q *peer, m *message) {
	if m.Boot != q.boot {
		p.send(q.name, &message{Kind: kindWant})
	} else if m.Ready && m.Seq >= q.seq {
		for _, r := range m.Records {
			if had, ok := q.records[r.Addr]; ok {
				r.Held = had.Held
			}
			q.records[r.Addr] = r
		}
	}
	answer := &message{Kind: kindAnswer, Claim: m.Claim, For: m.Boot, Wait: max(0, p.mourned-p.now)}
	for _, r := range m.Records {
		_, held := p.held[r.Addr]
		if q.live && p.agrees(q, r.Addr) {
			p.retry[r.Addr] = p.now + p.timing.Retry // its state is on its way
			if held {
				answer.Released = append(answer.Released, r.Addr)
			}
			continue
		}
		answer.Denied = append(answer.Denied, r.Addr)
	}
	p.publish()
	answer.Seq = p.seq
	p.send(q.name, answer)
}

// agrees decides whether another member may answer for an address. If this one has to stop for that, it has when it returns.
func (p *protocol) agrees(q *peer, a netip.Addr) bool {
	if by := p.reservedBy(a); by != nil && by != q {
		return false
	}
	if _, held := p.held[a]; held {
		if p.leaving != nil || !p.ready {
			return false
		}
		all, _ := p.candidates(a)
		if best, some := choose(a, all); !some || best.name != q.name {
			return false
		}
		return p.drop(a)
	}
	if c := p.claimed[a]; c != nil {
		if compareScores(a, p.self, q.name) < 0 {
			return false
		}
		p.withdraw(c, a)
		p.dirty[a] = true
	}
	return true
}

// onAnswer takes the answer to a claim.
func (p *protocol) onAnswer(q *peer, m *message) {
	p.mourned = max(p.mourned, p.now+m.Wait)
	if m.Boot == q.boot {
		q.answered = max(q.answered, m.Seq)
	}
	c := p.claims[m.Claim]
	if c == nil || m.For != p.boot || !c.waits[q.name] {
		return
	}
	for _, a := range m.Denied {
		if _, claimed := c.addrs[a]; !claimed {
			continue
		}
		p.withdraw(c, a)
		if c.resume {
			p.drop(a)
		}
		p.retry[a] = p.now + p.timing.Retry
	}
	for _, a := range m.Released {
		if _, claimed := c.addrs[a]; claimed {
			c.addrs[a] = free
		}
	}
	delete(c.waits, q.name)
}

// complete answers for the addresses of a claim, if all members have agreed.
func (p *protocol) complete(c *claim) {
	if len(c.waits) > 0 || p.now < p.mourned || !p.contact {
		return
	}
	for _, name := range p.alive() {
		if _, asked := c.asked[name]; !asked {
			p.ask(c, name)
			return
		}
	}
	var fresh []netip.Addr
	begun := 0
	for _, a := range slices.SortedFunc(maps.Keys(c.addrs), netip.Addr.Compare) {
		switch state := c.addrs[a]; {
		case c.resume:
			p.withdraw(c, a)
			p.unresume(a)
		case state == asking && (!p.known[a] || p.now < p.unsure):
			c.addrs[a] = probing
			fresh = append(fresh, a)
		case state != probing && begun == atOnce:
			p.more = true
		case state != probing:
			begun++
			p.withdraw(c, a)
			p.begin(a)
		}
	}
	if len(fresh) > 0 {
		p.fx.probe(fresh)
	}
}

// probed: the network was asked whether a host has an address. The other host is for people; empty: none has it.
func (p *protocol) probed(now time.Duration, a netip.Addr, other string, err error) {
	p.at(now)
	if c := p.claimed[a]; c != nil && c.addrs[a] == probing {
		c.addrs[a] = free
		if other != "" || err != nil {
			p.withdraw(c, a)
		}
	}
	switch {
	case err != nil:
		p.block(a, Failed, err.Error(), p.timing.Pause)
	case other != "" && p.isMember(other):
		p.retry[a] = p.now + p.timing.Pause/5
	case other != "":
		p.block(a, Conflict, other, p.timing.Block)
	}
	p.settle()
}

// isMember reports whether a MAC is another member's: it has not been known, or it restarts.
func (p *protocol) isMember(mac string) bool {
	for _, macs := range p.macsOf {
		if slices.Contains(macs, mac) {
			return true
		}
	}
	return false
}

// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// received takes a message of another member.
func (p *protocol) received(now time.Duration, from string, m *message) {
	p.at(now)
	q := p.peer(from)
	if !q.live { // it was alive when it sent this, and may have died before it was known
		p.mourned = max(p.mourned, p.now+p.timing.Lifetime)
	}
	p.onAway(m.Away)
	switch m.Kind {
	case kindState:
		p.onState(q, m)
	case kindWant:
		p.send(from, p.state())
	case kindDigest:
		if m.Boot != q.boot || m.Ready && (m.Seq != q.seq || !q.ready) {
			p.send(from, &message{Kind: kindWant})
		}
	case kindClaim:
		p.onClaim(q, m)
	case kindAnswer:
		p.onAnswer(q, m)
	case kindRestart:
		p.onRestart(q, m)
	case kindNoted:
		p.onNoted(q, m)
	}
	p.settle()
}

// onState takes what another member offers and holds.
func (p *protocol) onState(q *peer, m *message) {
	if m.Want {
		p.send(q.name, p.state())
	}
	if !q.take(m) {
		p.send(q.name, &message{Kind: kindWant})
		return
	}
	if m.Full {
		p.allDirty = true
		p.macsOf[q.name] = m.MACs
		for a, b := range p.blocked {
			if b.not == Conflict && slices.Contains(m.MACs, b.note) { // it was a member that was not known then
				delete(p.blocked, a)
				p.touch(a)
			}
		}
	}
	for _, r := range m.Records {
		p.dirty[r.Addr] = true
		if r.Held == 0 {
			continue
		}
		p.known[r.Addr] = true
		// Both hold it: they did not reach each other before.
		if _, held := p.held[r.Addr]; held && q.live && m.Boot == q.boot && q.seq >= q.answered && compareScores(r.Addr, q.name, p.self) < 0 {
			p.drop(r.Addr)
		}
	}
}

// state is all that this node says.
func (p *protocol) state() *message {
	m := &message{Kind: kindState, Full: true, Seq: p.seq, Ready: p.ready, MACs: p.macs, Away: p.away()}
	for _, r := range p.published {
		m.Records = append(m.Records, r)
	}
	return m
}

// publish sends what has changed.
func (p *protocol) publish() {
	if !p.ready || len(p.news) == 0 {
		return
	}
	m := &message{Kind: kindState, Ready: true}
	for a := range p.news {
		r := Record{Addr: a, Offer: p.own(a), Held: p.held[a]}
		before, had := p.published[a]
		_, offers := p.offers[a]
		switch {
		case !offers && r.Held == 0:
			if !had {
				continue
			}
			delete(p.published, a)
			r = Record{Addr: a, Gone: true}
		case had && r == before:
			continue
		default:
			p.published[a] = r
		}
		m.Records = append(m.Records, r)
	}
	clear(p.news)
	if len(m.Records) > 0 {
		p.seq++
		m.Seq = p.seq
		p.broadcast(m)
	}
}

// leaving is an agent that is about to end, and to be started again.
type leaving struct {
	until  time.Duration // when the kernel stops answering
	addrs  []netip.Addr
	waits  map[string]bool // members that have not noted it
	agreed bool
}

// leave says that the agent ends, to be started again soon. It is over when left returns true.
func (p *protocol) leave(now time.Duration) {
	p.at(now)
	if p.leaving != nil {
		return
	}
	for _, c := range p.claims {
		if !c.resume { // what is resumed is to be agreed on before the kernel answers for longer
			for a := range c.addrs {
				p.withdraw(c, a)
			}
		}
	}
	l := &leaving{until: p.now + p.timing.Grace, waits: map[string]bool{}}
	for a := range p.held {
		l.addrs = append(l.addrs, a)
	}
	p.leaving = l
	for _, name := range p.alive() {
		l.waits[name] = true
		p.sendRestart(name)
	}
	p.agreeToLeave()
}

// left reports whether all members have noted that the agent ends.
func (p *protocol) left() bool { return p.leaving != nil && p.leaving.agreed }

func (p *protocol) sendRestart(to string) {
	p.send(to, &message{Kind: kindRestart, Until: p.leaving.until - p.now, Addrs: p.leaving.addrs})
}

// agreeToLeave has the kernel answer for longer, once all members know.
func (p *protocol) agreeToLeave() {
	l := p.leaving
	if l == nil || l.agreed || len(l.waits) > 0 || !p.contact || len(p.resumed) > 0 {
		return
	}
	l.agreed = true
	p.extend(l.until)
}

// margin is what the clocks of two nodes may differ in over Timing.Grace.
const margin = 100 * time.Millisecond

func (p *protocol) onRestart(q *peer, m *message) {
	p.reserve(q, m.Boot, m.Until, m.Addrs)
	p.send(q.name, &message{Kind: kindNoted, For: m.Boot})
}

// reserve denies addresses to others while the agent of a member restarts.
func (p *protocol) reserve(q *peer, boot string, d time.Duration, addrs []netip.Addr) {
	q.away, q.awayBoot = p.now+d+margin, boot
	q.reserved = map[netip.Addr]bool{}
	for _, a := range addrs {
		q.reserved[a] = true
		p.known[a] = true
		if c := p.claimed[a]; c != nil { // it did not agree to that
			p.withdraw(c, a)
			p.retry[a] = p.now + p.timing.Retry
		}
	}
	p.allDirty = true
}

// away are the members that restart, for others.
func (p *protocol) away() (all []absence) {
	for name, q := range p.peers {
		if q.away > p.now {
			all = append(all, absence{name, q.awayBoot, q.away - p.now, slices.Collect(maps.Keys(q.reserved))})
		}
	}
	return all
}

// onAway notes members that restart, of which this one has not heard.
func (p *protocol) onAway(all []absence) {
	for _, a := range all {
		if q := p.peer(a.Name); a.Name != p.self && !q.live && q.away == 0 {
			p.reserve(q, a.Boot, a.Until, a.Addrs)
		}
	}
}

func (p *protocol) onNoted(q *peer, m *message) {
	if l := p.leaving; l != nil && m.For == p.boot {
		delete(l.waits, q.name)
		p.agreeToLeave()
	}
}

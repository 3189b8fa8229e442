// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// Timing is how long things take. What is said here of each is what mutual exclusion rests on.
type Timing struct {
	// Lifetime is for how long the kernel answers after its agent has last said so.
	Lifetime time.Duration
	// Beat is how often the agent says so.
	Beat time.Duration
	// Late is after how long without a beat an agent takes it that others have given up on it: it gives up all that it has.
	Late time.Duration
	// Mourn is how much longer a kernel may answer when its agent is known to be dead. A member is not known to be dead
	// before it has been silent for SilentFor, so that is at least Lifetime less SilentFor; Late is shorter than both together.
	Mourn     time.Duration
	SilentFor time.Duration
	// Grace is for how long the kernel answers while its agent restarts.
	Grace time.Duration
	// Retry is when a claim that was denied is made again, and Resend when one is sent again that has no answer.
	Retry, Resend time.Duration
	// Digest is how often members compare what they know.
	Digest time.Duration
	// Block is for how long a node does not offer itself for an address that another host has, Pause for one for which the
	// kernel can't be made to answer.
	Block, Pause time.Duration
}

// DefaultTiming has a node replaced about 1.5 s after its agent died.
var DefaultTiming = Timing{
	Lifetime: time.Second, Beat: 250 * time.Millisecond, Late: 600 * time.Millisecond,
	SilentFor: 600 * time.Millisecond, Mourn: 500 * time.Millisecond, Grace: 15 * time.Second,
	Retry: 100 * time.Millisecond, Resend: 300 * time.Millisecond, Digest: 5 * time.Second,
	Block: time.Minute, Pause: 5 * time.Second,
}

// effects are what the protocol does to the node and to others. No method may call the protocol.
type effects interface {
	hold(netip.Addr) error
	// release returns once the node answers no more.
	release(netip.Addr) error
	// extend has the node answer until then, on the clock of the protocol. lapsed: it did not answer any more.
	extend(until time.Duration) (lapsed bool, err error)
	// restart has the node hold nothing; extend works again then.
	restart() error
	// probe asks the network whether a host has the addresses; probed is called later.
	probe([]netip.Addr)
	send(to string, m *message)
	// reconnect finds out which members are alive; contacted is called later.
	reconnect()
	clock() time.Duration // now
	since() int64         // the time of day, in seconds since 1970
}

// protocol is how one node agrees with the others. Its methods are the events; the caller sees to it that they come one at
// a time. `now` is of a clock that goes on while the process is stopped, and that the kernel's answers end by.
//
// Safety. At any time at most one node answers for an address, if each member that is alive hears from the others within
// Timing.SilentFor:
//
//  1. A node begins to answer when every member that it knows to be alive has agreed. A member agrees if it neither answers for
//     the address nor claims it. If both claim it, compareScores decides which one goes on: the other one withdraws its
//     claim before it agrees, and an agreement to a claim that was withdrawn counts for nothing.
//  2. A member that is dead can't agree. Its kernel answers for Timing.Lifetime at most after its last beat. Hence for
//     Timing.Mourn after a member is known to be dead nothing is begun. An answer to a claim says how long that still is, since
//     the claimant may be newer than the death.
//  3. An agent that has been stopped for longer than Timing.Late gives up all claims and all that it answers for, and tries to
//     reach all members before it claims anything: others may have come back while it was stopped.
//  4. An agent that ends in order to start again says so, and for which addresses its kernel will answer until when. It has
//     its kernel do so only after every member has noted it. A member that has noted it denies these addresses to others.
//  5. An agent that finds addresses that its kernel answers for claims them like others. Until every member has agreed it
//     doesn't let the kernel answer for longer than the agent before had said.
//  6. A member whose name others don't know to be alive is denied what it claims.
//
// Members that can't reach each other at all may both answer. When they meet again, compareScores decides.
type protocol struct {
	self, boot string
	timing     Timing
	fx         effects

	now     time.Duration
	beaten  time.Duration // when it was last said that the kernel may answer
	until   time.Duration // as the kernel has it
	contact bool          // it is known which members there are
	mourned time.Duration // until when a kernel may answer whose agent is dead
	unsure  time.Duration // until when one may answer whose agent restarts, unknown to this one

	peers   map[string]*peer
	macs    []string             // of this node's devices
	macsOf  map[string][]string  // of members, those included that are gone
	offers  map[netip.Addr]Offer // of this node; nil: not known yet
	blocked map[netip.Addr]blocked
	held    map[netip.Addr]int64 // since when, in seconds since 1970
	resumed map[netip.Addr]bool  // are held since before this process, and not agreed on
	ready   bool                 // the offers are known, and nothing is resumed
	unfit   map[netip.Addr]time.Duration
	known   map[netip.Addr]bool // a member has held it: the network need not be asked

	lastClaim uint64
	claims    map[uint64]*claim
	claimed   map[netip.Addr]*claim
	retry     map[netip.Addr]time.Duration

	leaving *leaving

	seq       uint64
	published map[netip.Addr]Record
	digested  time.Duration
	dirty     map[netip.Addr]bool // addresses to be judged again
	allDirty  bool
	news      map[netip.Addr]bool // addresses whose record may have changed
	moves     uint64              // how often this node began to answer for an address
	more      bool                // addresses are left to begin with
	stirred   bool                // something may have changed that people want to see
}

// blocked is an address that the node does not offer itself for, until then.
type blocked struct {
	until time.Duration
	not   Reason
	note  string
}

func newProtocol(self, boot string, timing Timing, fx effects, now time.Duration) *protocol {
	p := &protocol{
		self: self, boot: boot, timing: timing, fx: fx, now: now, beaten: now,
		peers: map[string]*peer{}, macsOf: map[string][]string{}, blocked: map[netip.Addr]blocked{},
		held: map[netip.Addr]int64{}, resumed: map[netip.Addr]bool{}, unfit: map[netip.Addr]time.Duration{}, known: map[netip.Addr]bool{},
		claims: map[uint64]*claim{}, claimed: map[netip.Addr]*claim{}, retry: map[netip.Addr]time.Duration{},
		published: map[netip.Addr]Record{}, dirty: map[netip.Addr]bool{}, news: map[netip.Addr]bool{},
	}
	p.doubt()
	return p
}

// resume takes over what the kernel answers for, until then, since before this process. It is to be called first.
func (p *protocol) resume(addrs map[netip.Addr]int64, until time.Duration) {
	for a, since := range addrs {
		if until <= p.now {
			_ = p.fx.release(a) // it does not answer anyway
			continue
		}
		p.held[a], p.resumed[a], p.known[a], p.news[a] = since, true, true, true
	}
	p.until = until
}

// at begins an event. An agent that comes late has lost what it had.
func (p *protocol) at(now time.Duration) {
	p.now = max(p.now, now)
	late := p.now-p.beaten >= p.timing.Late
	if late || p.now >= p.until && p.until > 0 {
		p.abandon()
	}
	if late {
		p.dropClaims()
		p.leaving = nil
		p.beaten = p.now
		p.contact = false
		p.doubt()
		p.fx.reconnect()
	}
}

// doubt: an agent may have ended in order to start again while this one could not hear it. As long as its kernel may answer,
// the network is asked about each address that is claimed.
func (p *protocol) doubt() { p.unsure = p.now + p.timing.Grace + margin }

// abandon gives up all that is held, unless an agreement with all members lets the kernel answer for longer.
func (p *protocol) abandon() {
	if len(p.resumed) > 0 && p.now < p.until {
		return // the kernel answers by what the process before has agreed on
	}
	for a := range p.held {
		p.drop(a)
	}
}

// drop stops answering for an address.
func (p *protocol) drop(a netip.Addr) bool {
	if _, held := p.held[a]; !held {
		return true
	}
	p.pulse()
	if p.fx.release(a) != nil {
		return false
	}
	delete(p.held, a)
	delete(p.unfit, a)
	p.unresume(a)
	return true
}

// unresume: it is settled whether an address is held that was before this process. Others are claimed after all of these.
func (p *protocol) unresume(a netip.Addr) {
	if p.resumed[a] {
		delete(p.resumed, a)
		if len(p.resumed) == 0 { // the kernel is to answer no longer without this process
			p.allDirty = true
			if p.now < p.until {
				p.extend(p.now + p.timing.Lifetime)
			}
		}
	}
	p.touch(a)
}

// touch has an address judged again, and its record sent.
func (p *protocol) touch(a netip.Addr) { p.dirty[a], p.news[a] = true, true }

// beat is called every Timing.Beat.
func (p *protocol) beat(now time.Duration) {
	p.at(now)
	p.beaten = p.now
	if len(p.resumed) == 0 && (p.leaving == nil || !p.leaving.agreed) {
		p.extend(p.now + p.timing.Lifetime)
	}
	p.remind()
	if p.now-p.digested >= p.timing.Digest {
		p.digested = p.now
		p.broadcast(&message{Kind: kindDigest, Seq: p.seq, Ready: p.ready, Away: p.away()})
	}
	p.settle()
}

// tick is called when next says so.
func (p *protocol) tick(now time.Duration) {
	p.at(now)
	p.expire()
	p.settle()
}

// next is when tick is to be called.
func (p *protocol) next() time.Duration {
	next := p.now + p.timing.Beat
	if p.more {
		return p.now
	}
	earlier := func(at time.Duration) {
		if at > p.now {
			next = min(next, at)
		}
	}
	for _, at := range p.retry {
		earlier(at)
	}
	for _, at := range p.unfit {
		earlier(at)
	}
	for _, b := range p.blocked {
		earlier(b.until)
	}
	for _, q := range p.peers {
		earlier(q.away)
	}
	earlier(p.mourned)
	return next
}

// remind says again what has not been answered.
func (p *protocol) remind() {
	p.expire()
	for _, number := range slices.Sorted(maps.Keys(p.claims)) {
		p.resend(p.claims[number])
	}
	if l := p.leaving; l != nil {
		for _, name := range slices.Sorted(maps.Keys(l.waits)) {
			p.sendRestart(name)
		}
	}
	if p.contact && len(p.resumed) > 0 {
		var unclaimed []netip.Addr
		for a := range p.resumed {
			if p.claimed[a] == nil {
				unclaimed = append(unclaimed, a)
			}
		}
		p.claim(unclaimed, true)
	}
}

// pulse is a beat in the midst of an event that may take long: the kernel may be slow to hold or to release an address.
func (p *protocol) pulse() {
	now := p.fx.clock()
	if now-p.beaten < p.timing.Beat || now-p.beaten >= p.timing.Late || len(p.resumed) > 0 || p.leaving != nil {
		return // or it is late, which the next event notices
	}
	p.now, p.beaten = now, now
	p.extend(now + p.timing.Lifetime)
}

// extend lets the kernel answer until then. If it did not any more, all that it answered for is given up first.
func (p *protocol) extend(until time.Duration) {
	lapsed, err := p.fx.extend(until)
	if lapsed {
		for a := range p.held {
			p.drop(a)
		}
		if err = p.fx.restart(); err == nil {
			_, err = p.fx.extend(until)
		}
	}
	if err == nil {
		p.until = until
	}
}

// expire ends what was for some time only.
func (p *protocol) expire() {
	for a, b := range p.blocked {
		if p.now >= b.until {
			delete(p.blocked, a)
			p.touch(a)
		}
	}
	for a, at := range p.retry {
		if p.now >= at {
			delete(p.retry, a)
			p.dirty[a] = true
		}
	}
	for a, at := range p.unfit {
		if p.now >= at {
			p.drop(a)
		}
	}
	for name, q := range p.peers {
		if q.away > 0 && p.now >= q.away {
			q.away, q.reserved = 0, nil
			p.allDirty = true
		}
		if !q.live && q.away == 0 {
			delete(p.peers, name)
		}
	}
}

// offer says what this node offers; all is known then.
func (p *protocol) offer(now time.Duration, all map[netip.Addr]Offer) {
	p.at(now)
	for a, o := range all {
		if had, is := p.offers[a]; !is || had != o {
			p.touch(a)
		}
	}
	for a := range p.offers {
		if _, has := all[a]; !has {
			p.touch(a)
		}
	}
	for a := range p.held {
		p.touch(a)
	}
	p.offers = maps.Clone(all)
	if p.offers == nil {
		p.offers = map[netip.Addr]Offer{}
	}
	p.settle()
}

// own is what this node offers for an address, all considered.
func (p *protocol) own(a netip.Addr) Offer {
	o, known := p.offers[a]
	if !known {
		return Offer{Not: Unknown}
	}
	if b, is := p.blocked[a]; is && o.Not == Offered {
		o.Not, o.Note = b.not, b.note
	}
	return o
}

// candidates are the nodes that offer themselves; vetoed: no node is to answer.
func (p *protocol) candidates(a netip.Addr) (all []candidate, vetoed bool) {
	switch o := p.own(a); {
	case o.Not == Offered && p.leaving == nil:
		all = append(all, candidate{p.self, o})
	case o.Not == Other:
		vetoed = true
	}
	for _, q := range p.peers {
		r, says := q.records[a]
		if !says || !q.counts(a, p.now) {
			continue
		}
		switch r.Not {
		case Offered:
			all = append(all, candidate{q.name, r.Offer})
		case Other:
			vetoed = true
		}
	}
	return all, vetoed
}

// settle judges what has changed, and says what is to be said of that.
func (p *protocol) settle() {
	p.stirred = p.stirred || p.allDirty || len(p.dirty) > 0
	if !p.ready && p.offers != nil && len(p.resumed) == 0 {
		p.ready = true
		p.publish()
		p.broadcast(p.state())
	}
	if p.ready && p.leaving == nil {
		var wanted []netip.Addr
		if p.allDirty {
			for a := range p.offers {
				p.dirty[a] = true
			}
		}
		for a := range p.dirty {
			if p.judge(a) {
				wanted = append(wanted, a)
			}
		}
		p.allDirty = false
		clear(p.dirty)
		p.publish()
		p.claim(wanted, false)
	}
	p.more = false
	for _, number := range slices.Sorted(maps.Keys(p.claims)) {
		p.complete(p.claims[number])
	}
	p.agreeToLeave()
	p.publish()
}

// judge decides about an address by what is offered. It returns whether it is to be claimed.
func (p *protocol) judge(a netip.Addr) bool {
	all, vetoed := p.candidates(a)
	best, some := choose(a, all)
	_, held := p.held[a]
	own := p.own(a).Not
	switch {
	case held && (vetoed || own == Unknown || own == Carrier || own == Conflict || own == Failed || !some):
		p.drop(a)
	case held && own != Offered:
		if _, noted := p.unfit[a]; !noted { // another node is about to ask for it
			p.unfit[a] = p.now + p.timing.Lifetime
		}
	case held:
		delete(p.unfit, a)
	}
	wants := !vetoed && some && best.name == p.self && p.contact
	if _, held := p.held[a]; held {
		return false
	}
	if c := p.claimed[a]; c != nil {
		if !wants {
			p.withdraw(c, a)
		}
		return false
	}
	_, waits := p.retry[a]
	return wants && !waits && p.reservedBy(a) == nil
}

// reservedBy is a peer whose kernel may answer for the address while its agent restarts; nil: none.
func (p *protocol) reservedBy(a netip.Addr) *peer {
	for _, q := range p.peers {
		if q.reserves(a, p.now) {
			return q
		}
	}
	return nil
}

// atOnce is how many addresses are begun with in one event: those that come meanwhile are not to wait for long.
const atOnce = 16

// begin answers for an address, on which all have agreed.
func (p *protocol) begin(a netip.Addr) {
	p.pulse()
	if p.now >= p.until {
		p.dirty[a] = true // too late; it is claimed again
		return
	}
	if err := p.fx.hold(a); err != nil {
		p.block(a, Failed, err.Error(), p.timing.Pause)
		return
	}
	p.held[a], p.known[a] = p.fx.since(), true
	p.moves++
	p.touch(a)
}

// block has the node not offer itself for some time.
func (p *protocol) block(a netip.Addr, not Reason, note string, d time.Duration) {
	p.blocked[a] = blocked{p.now + d, not, note}
	p.touch(a)
}

// failed: the kernel does not answer any more for an address that is held.
func (p *protocol) failed(now time.Duration, a netip.Addr, err error) {
	p.at(now)
	p.drop(a)
	p.block(a, Failed, err.Error(), p.timing.Pause)
	p.settle()
}

// contacted says whether it is known which members there are. Without that nothing is claimed.
func (p *protocol) contacted(now time.Duration, contact bool) {
	p.at(now)
	if p.contact == contact {
		return
	}
	if p.contact = contact; contact {
		p.allDirty = true
		p.remind()
	} else {
		p.dropClaims()
		p.doubt()
	}
	p.settle()
}

// joined: a member is alive.
func (p *protocol) joined(now time.Duration, name string) {
	p.at(now)
	q := p.peer(name)
	q.live = true
	for a, b := range p.blocked {
		if b.not == Conflict { // it may have been that member
			delete(p.blocked, a)
			p.touch(a)
		}
	}
	m := p.state()
	m.Want = true
	p.send(name, m)
	for _, number := range slices.Sorted(maps.Keys(p.claims)) {
		p.ask(p.claims[number], name)
	}
	if l := p.leaving; l != nil && !l.agreed {
		l.waits[name] = true
		p.sendRestart(name)
	}
	p.allDirty = true
	p.settle()
}

// died: a member is dead, and has been silent for Timing.SilentFor.
func (p *protocol) died(now time.Duration, name string) {
	p.at(now)
	q := p.peers[name]
	if q == nil || !q.live {
		return
	}
	q.live = false
	p.mourned = max(p.mourned, p.now+p.timing.Mourn)
	if p.now >= q.away {
		q.records, q.seq, q.boot, q.ready = map[netip.Addr]Record{}, 0, "", false
	}
	for _, c := range p.claims {
		delete(c.waits, name)
	}
	if l := p.leaving; l != nil {
		delete(l.waits, name)
		p.agreeToLeave()
	}
	p.allDirty = true
	p.settle()
}

func (p *protocol) peer(name string) *peer {
	q := p.peers[name]
	if q == nil {
		q = &peer{name: name, records: map[netip.Addr]Record{}}
		p.peers[name] = q
	}
	return q
}

// alive are the names of the members that are, in order.
func (p *protocol) alive() (names []string) {
	for name, q := range p.peers {
		if q.live {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func (p *protocol) send(to string, m *message) {
	m.Version, m.Boot = version, p.boot
	p.fx.send(to, m)
}

func (p *protocol) broadcast(m *message) {
	for _, name := range p.alive() {
		c := *m
		p.send(name, &c)
	}
}

// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"net/netip"
	"time"
)

// peer is another member, as this one knows it. It is kept while the member is alive or restarts.
type peer struct {
	name  string
	live  bool
	boot  string // which process the state is of
	seq   uint64
	ready bool
	// answered is the state that its last answer came after: what an earlier one says it holds may be what it gave up.
	answered uint64
	records  map[netip.Addr]Record

	// away is until when its kernel may answer for what is reserved, since its agent restarts; zero: it doesn't.
	away     time.Duration
	awayBoot string // the process that has ended
	reserved map[netip.Addr]bool
}

// counts reports whether what the peer says of an address matters.
func (p *peer) counts(addr netip.Addr, now time.Duration) bool {
	return p.live || p.reserves(addr, now)
}

// reserves reports whether the address is the peer's though its agent does not run.
func (p *peer) reserves(addr netip.Addr, now time.Duration) bool {
	return now < p.away && p.reserved[addr]
}

// take notes a state. It returns false if all of the state is needed.
func (p *peer) take(m *message) bool {
	switch {
	case m.Full && (m.Boot != p.boot || m.Seq >= p.seq):
		if m.Boot != p.boot {
			p.answered = 0
		}
		p.boot, p.seq = m.Boot, m.Seq
		if p.ready = m.Ready; !m.Ready {
			return true
		}
		if m.Boot != p.awayBoot { // not a state of before, which has come late
			p.away, p.reserved = 0, nil
		}
		p.records = map[netip.Addr]Record{}
	case m.Boot != p.boot || m.Seq > p.seq+1:
		return false
	case m.Seq <= p.seq:
		return true
	default:
		p.seq = m.Seq
	}
	for _, r := range m.Records {
		if r.Gone {
			delete(p.records, r.Addr)
			continue
		}
		p.records[r.Addr] = r
	}
	return true
}

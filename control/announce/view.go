// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

// View is what an agent knows of who announces what.
type View struct {
	Addresses map[netip.Addr]Announced
	Members   []Member
	Contact   bool // it is known which members there are
	Held      int  // addresses that this node announces
	// Moves counts how often this node began to announce an address, since the agent started.
	Moves uint64
}

// Announced is who announces an address.
type Announced struct {
	Holder string // node; empty: none does
	Since  time.Time
	Why    string // that node, or none
	// Conflict is the MAC of another host that has the address; empty: none is known.
	Conflict string
}

// Member is another agent.
type Member struct {
	Name  string
	State string // for people
}

// View returns what is known now.
func (a *Announcer) View() *View {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.view
}

// showEvery bounds how often a view is made.
const showEvery = 200 * time.Millisecond

// show makes a view if the last one is old.
func (a *Announcer) show() {
	if !a.p.stirred || time.Since(a.settled) < showEvery {
		return
	}
	a.p.stirred, a.settled = false, time.Now()
	v := a.p.view()
	for addr, at := range a.places {
		w, known := v.Addresses[addr]
		if !known {
			continue
		}
		for i, d := range at.docs {
			if i == 0 {
				w.Why += "; by "
			} else {
				w.Why += ", "
			}
			w.Why += d.String()
		}
		if mac := a.guard.contested[addr]; mac != "" && a.holds(addr) {
			w.Conflict = mac
		}
		v.Addresses[addr] = w
	}
	a.mu.Lock()
	a.view = v
	a.mu.Unlock()
	a.opts.Seen()
}

func (p *protocol) view() *View {
	v := &View{Addresses: map[netip.Addr]Announced{}, Contact: p.contact, Held: len(p.held), Moves: p.moves}
	for a := range p.offers {
		v.Addresses[a] = p.announced(a)
	}
	for a := range p.held {
		v.Addresses[a] = p.announced(a)
	}
	for name, q := range p.peers {
		switch {
		case q.live && q.ready:
			v.Members = append(v.Members, Member{name, "alive"})
		case q.live:
			v.Members = append(v.Members, Member{name, "alive, has no services yet"})
		case q.away > p.now:
			v.Members = append(v.Members, Member{name, "restarts"})
		}
	}
	slices.SortFunc(v.Members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return v
}

// announced says who announces an address, and why.
func (p *protocol) announced(a netip.Addr) Announced {
	var out Announced
	if since, held := p.held[a]; held {
		out.Holder, out.Since = p.self, time.Unix(since, 0)
	}
	var not []string
	offered := 0
	say := func(name string, o Offer) {
		if o.Not == Conflict {
			out.Conflict = o.Note
		}
		if o.Not == Offered {
			offered++
			return
		}
		not = append(not, strings.TrimSpace(fmt.Sprintf("%s: %s %s", name, words[o.Not], o.Note)))
	}
	if o := p.own(a); o.Not != Unknown {
		say(p.self, o)
	}
	for name, q := range p.peers {
		r, says := q.records[a]
		if !says || !q.counts(a, p.now) {
			continue
		}
		say(name, r.Offer)
		if r.Held > 0 && out.Holder == "" {
			out.Holder, out.Since = name, time.Unix(r.Held, 0)
		}
	}
	slices.Sort(not)
	all, vetoed := p.candidates(a)
	best, some := choose(a, all)
	switch {
	case vetoed:
		out.Why = "left to another program"
	case !p.contact:
		out.Why = "it is not known yet which other agents there are"
	case !some:
		out.Why = "no node can"
	case out.Holder != "" && best.name != out.Holder:
		out.Why = "about to move to " + best.name
	case out.Holder == "":
		out.Why = best.name + " is about to"
	case offered == 1:
		out.Why = "the only node that can"
	case best.Last:
		out.Why = fmt.Sprintf("all %d nodes that can are cordoned; the first by hash", offered)
	case best.Weight > 0:
		out.Why = fmt.Sprintf("preferred (%d) of %d nodes that can", best.Weight, offered)
	default:
		out.Why = fmt.Sprintf("the first by hash of %d nodes that can", offered)
	}
	if len(not) > 0 {
		out.Why += " (" + strings.Join(not, "; ") + ")"
	}
	return out
}

// readSince reads what writeSince has written; nil if there is none.
func readSince(file string) (since map[netip.Addr]int64) {
	if raw, err := os.ReadFile(file); err == nil {
		_ = json.Unmarshal(raw, &since) // it is only for people
	}
	return since
}

func writeSince(file string, since map[netip.Addr]int64) {
	if file == "" {
		return
	}
	if raw, err := json.Marshal(since); err == nil {
		_ = atomicfile.Write(file, raw, 0o644)
	}
}

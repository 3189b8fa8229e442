// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"maps"
	"net/netip"
	"slices"
	"time"
)

// A host may take an address after it was announced here. RFC 5227, 2.4 has a host listen for that; the programs only see
// questions, so the agent asks the network about one address that it announces each guardPause, and about each one every
// guardEvery at most. It defends the address (2.4, the third choice, which is for hosts whose address others depend on), and reports it.
const (
	guardPause = time.Second
	guardEvery = time.Minute
)

// guard is what is known of held addresses that other hosts have, too. The loop alone uses it.
type guard struct {
	asked     map[netip.Addr]time.Time // when it was begun, or when it was first seen held
	contested map[netip.Addr]string    // the MAC of the other host
}

func newGuard() guard {
	return guard{map[netip.Addr]time.Time{}, map[netip.Addr]string{}}
}

// due returns the held address that was not asked about for longest, if that is long enough.
func (g *guard) due(held map[netip.Addr]int64, now time.Time) (addr netip.Addr, ok bool) {
	gone := func(a netip.Addr) bool { _, is := held[a]; return !is }
	maps.DeleteFunc(g.asked, func(a netip.Addr, _ time.Time) bool { return gone(a) })
	maps.DeleteFunc(g.contested, func(a netip.Addr, _ string) bool { return gone(a) })
	for a := range held {
		if _, known := g.asked[a]; !known {
			g.asked[a] = now
		}
	}
	if len(g.asked) == 0 {
		return addr, false
	}
	addr = slices.MinFunc(slices.Collect(maps.Keys(g.asked)), func(a, b netip.Addr) int {
		if c := g.asked[a].Compare(g.asked[b]); c != 0 {
			return c
		}
		return a.Compare(b)
	})
	if now.Sub(g.asked[addr]) < guardEvery {
		return addr, false
	}
	g.asked[addr] = now
	return addr, true
}

// keepWatch asks about one address.
func (a *Announcer) keepWatch() {
	addr, ok := a.guard.due(a.p.held, time.Now())
	at := a.places[addr]
	if !ok || at == nil {
		return
	}
	devices := slices.Clone(at.devices)
	go func() {
		mac, err := a.opts.Wire.Probe(a.ctx, addr, devices)
		if err == nil {
			a.later(func() { a.watched(addr, mac.String()) })
		}
	}()
}

// watched takes the answer: the MAC of a host; empty: no host has it.
func (a *Announcer) watched(addr netip.Addr, mac string) {
	if !a.holds(addr) || a.p.isMember(mac) {
		return // a member that it moves to
	}
	if mac == "" && a.guard.contested[addr] == "" {
		return
	}
	a.guard.contested[addr] = mac              // due() forgets it with the address
	a.p.stirred, a.settled = true, time.Time{} // at once: Conflict reports what the view has
	a.show()
	if mac != "" {
		a.opts.Wire.Defend(addr)
		a.opts.Conflict(addr, a.services(addr), mac)
	}
}

// services are the names of those that have an address.
func (a *Announcer) services(addr netip.Addr) (names []string) {
	if at := a.places[addr]; at != nil {
		for _, svc := range at.services {
			names = append(names, svc.Namespace+"/"+svc.Name)
		}
	}
	return names
}

// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"net/netip"
	"time"

	"github.com/waggle-lb/waggle/maps"
)

// An announcement that is lost would leave clients with the former holder, so each is repeated. RFC 5227, 2.3
// (ANNOUNCE_NUM and ANNOUNCE_INTERVAL, which are 2 and 2 s) and RFC 4861, 7.2.6 (up to 3, at least 1 s apart).
const (
	repeats  = 2
	interval = time.Second
)

// wave is an announcement that is still to be repeated.
type wave struct {
	timer *time.Timer
	left  int
}

// announce announces an address on all devices where it is held, and goes on in the background. The caller holds w.mu.
func (w *Wire) announce(addr netip.Addr) {
	w.stopWave(addr)
	v := &wave{left: repeats}
	v.timer = time.AfterFunc(interval, func() { w.repeat(addr, v) })
	w.waves[addr] = v
	w.say(addr)
}

// Defend announces a held address again: another host has it, too.
func (w *Wire) Defend(addr netip.Addr) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.places[addr]) > 0 {
		w.announce(addr)
	}
}

func (w *Wire) repeat(addr netip.Addr, v *wave) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.waves[addr] != v {
		return // released, or announced anew, meanwhile
	}
	w.say(addr)
	if v.left--; v.left == 0 {
		delete(w.waves, addr)
		return
	}
	v.timer.Reset(interval)
}

func (w *Wire) stopWave(addr netip.Addr) {
	if v := w.waves[addr]; v != nil {
		v.timer.Stop()
		delete(w.waves, addr)
	}
}

// say announces an address once, unless others may have it by now.
func (w *Wire) say(addr netip.Addr) {
	if maps.Monotonic() >= w.until {
		return
	}
	for _, ifindex := range w.places[addr] {
		p := w.ports[ifindex]
		if p == nil {
			continue // of an earlier process
		}
		frames, err := announcements(p.Device, addr)
		if err == nil {
			err = p.send(frames...)
		}
		if err != nil {
			w.log.Warnf("announcing %s: %v", addr, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

// Package layer2 does what a node does on its local networks to hold addresses that none of its devices has: it has
// the programs answer for them (bpf/announce.h), joins the multicast groups by which they are asked for, announces
// them unasked, and asks whether other hosts have them. It does not decide which addresses, or when.
package layer2

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/maps"
)

// ErrLapsed: the time of the last Extend was over, so other nodes may hold by now what this one held, or was about
// to. Drop comes next.
var ErrLapsed = errors.New("the programs' time to answer for announced addresses was over before it was extended")

// Wire holds addresses on the node's local networks. Its methods may be called concurrently. They act in the network
// namespace of the calling thread, which has to be the node's.
type Wire struct {
	table   *maps.Announced
	devices *maps.Devices
	log     *logrus.Entry

	mu     sync.Mutex
	places map[netip.Addr][]int // what the map announced has; nil: not read yet
	until  time.Duration        // what the map announce_until has
	ports  map[int]*port        // of devices on which addresses are announced, by ifindex
	groups groups
	waves  map[netip.Addr]*wave // announcements that are still to be repeated
	ours   map[netip.Addr]bool  // announced by this process

	probing sync.Mutex // guards probers; not held while frames are sent or waited for
	probers map[proberKey]*prober
}

// New makes a Wire over the datapath's maps. What they hold from before goes on being answered.
func New(p maps.Provider, log *logrus.Entry) *Wire {
	return &Wire{
		table: maps.NewAnnounced(p), devices: maps.NewDevices(p), log: log,
		ports: map[int]*port{}, waves: map[netip.Addr]*wave{}, ours: map[netip.Addr]bool{},
		probers: map[proberKey]*prober{},
	}
}

// load reads the maps once: no other process writes to them.
func (w *Wire) load() error {
	if w.places != nil {
		return nil
	}
	all, err := w.table.All()
	if err != nil {
		return err
	}
	if w.until, err = w.table.Until(); err != nil {
		return err
	}
	w.places = map[netip.Addr][]int{}
	for place := range all {
		w.places[place.Addr] = append(w.places[place.Addr], place.Ifindex)
	}
	return nil
}

// Hold has an address answered on exactly these devices, and announces it there: at once, after one second and
// after two (RFC 5227, 2.3 and RFC 4861, 7.2.6). An address that was held on the same devices before is only answered
// on. The error names the devices where it is not held; on the others it is. What can't be announced is logged, and
// answered all the same. ErrLapsed: nothing was done.
func (w *Wire) Hold(addr netip.Addr, ifindexes []int) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.load(); err != nil {
		return err
	}
	if maps.Monotonic() >= w.until {
		return ErrLapsed
	}
	var errs []error
	var held []int
	changed := !w.ours[addr]
	for _, ifindex := range ifindexes {
		is, err := w.holdOn(addr, ifindex)
		if err != nil {
			errs = append(errs, err)
			w.leavePort(addr, ifindex)
			continue
		}
		changed = changed || is
		held = append(held, ifindex)
	}
	for _, ifindex := range w.places[addr] {
		if slices.Contains(held, ifindex) {
			continue
		}
		if err := w.releaseOn(addr, ifindex); err != nil { // it is still answered there
			errs, held = append(errs, err), append(held, ifindex)
		}
	}
	if len(held) == 0 {
		w.forget(addr)
		return errors.Join(errs...)
	}
	w.places[addr], w.ours[addr] = held, true
	if changed {
		w.announce(addr)
	}
	return errors.Join(errs...)
}

// holdOn has an address answered on a device. changed: it was not, or with another MAC.
func (w *Wire) holdOn(addr netip.Addr, ifindex int) (changed bool, err error) {
	p, err := w.port(ifindex)
	if err != nil {
		return false, fmt.Errorf("%s: %w", maps.Place{Addr: addr, Ifindex: ifindex}, err)
	}
	if err := w.groups.join(addr, ifindex); err != nil {
		return false, fmt.Errorf("%s: %w", maps.Place{Addr: addr, Ifindex: ifindex}, err)
	}
	if err := w.table.Set(maps.Place{Addr: addr, Ifindex: ifindex}, p.MAC); err != nil {
		return false, errors.Join(err, w.groups.leave(addr, ifindex))
	}
	p.addrs[addr] = true
	return !slices.Contains(w.places[addr], ifindex), nil
}

// Release has an address not answered any more, once it returns, nor announced. It returns no error for one that is
// not held.
func (w *Wire) Release(addr netip.Addr) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.load(); err != nil {
		return err
	}
	return w.release(addr)
}

func (w *Wire) release(addr netip.Addr) error {
	var errs []error
	var left []int
	for _, ifindex := range w.places[addr] {
		if err := w.releaseOn(addr, ifindex); err != nil {
			errs, left = append(errs, err), append(left, ifindex)
		}
	}
	w.forget(addr)
	if len(left) > 0 {
		w.places[addr] = left
	}
	return errors.Join(errs...)
}

// releaseOn has an address not answered on a device. An error: it still is.
func (w *Wire) releaseOn(addr netip.Addr, ifindex int) error {
	if err := w.table.Delete(maps.Place{Addr: addr, Ifindex: ifindex}); err != nil {
		return err
	}
	if err := w.groups.leave(addr, ifindex); err != nil {
		w.log.Warnf("%s: %v", maps.Place{Addr: addr, Ifindex: ifindex}, err)
	}
	w.leavePort(addr, ifindex)
	return nil
}

// forget keeps nothing of an address that is not held any more.
func (w *Wire) forget(addr netip.Addr) {
	w.stopWave(addr)
	delete(w.places, addr)
	delete(w.ours, addr)
}

// Extend has the programs answer for so long from now on, and no longer, unless it is called again. If the time of the
// last call was over, it does nothing and returns ErrLapsed, until Drop is called. (The clock is read once: this process
// may be stopped anywhere, and yet never goes on to answer for what others may have by now.)
func (w *Wire) Extend(lifetime time.Duration) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.load(); err != nil {
		return err
	}
	now := maps.Monotonic()
	if w.until != 0 && now >= w.until {
		return ErrLapsed
	}
	return w.extend(now + lifetime)
}

func (w *Wire) extend(until time.Duration) error {
	if err := w.table.Extend(until); err != nil {
		return err
	}
	w.until = until
	return nil
}

// Drop releases all that is held, and has Extend begin anew.
func (w *Wire) Drop() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.load(); err != nil {
		return err
	}
	var errs []error
	for addr := range w.places {
		errs = append(errs, w.release(addr))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	return w.extend(0)
}

// Held returns the addresses that are held, and on which devices, those of an earlier process included.
func (w *Wire) Held() (map[netip.Addr][]int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.load(); err != nil {
		return nil, err
	}
	out := make(map[netip.Addr][]int, len(w.places))
	for addr, ifindexes := range w.places {
		out[addr] = slices.Clone(ifindexes)
	}
	return out, nil
}

// Remaining returns for how long the programs go on to answer; 0: they don't.
func (w *Wire) Remaining() (time.Duration, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.load(); err != nil {
		return 0, err
	}
	return max(0, w.until-maps.Monotonic()), nil
}

// Close stops announcing and leaves the multicast groups. What is held goes on being answered until its time is over.
func (w *Wire) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for addr := range w.waves {
		w.stopWave(addr)
	}
	errs := []error{w.groups.close()}
	for ifindex, p := range w.ports {
		errs = append(errs, p.close())
		delete(w.ports, ifindex)
	}
	return errors.Join(errs...)
}

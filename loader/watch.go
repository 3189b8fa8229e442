// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// WatchOptions are what a watcher wants to see; bpf/watch.h says how the programs read them.
type WatchOptions struct {
	// Watch has the filter: Verdicts, Client, Mask, Family and Flags. The lease and the buckets are set here.
	bpf.Watch
	// Rate is how many events of a verdict are let through each second, and at once; 0 for all.
	Rate uint32
	// Services and Backends are the ids that the flags WatchServices and WatchBackends let through at first.
	Services, Backends []uint32
}

// Watcher receives what the programs report. One goroutine may call Read while another calls the other methods.
type Watcher struct {
	dir    *os.File // the directory of maps, whose lock guards the slots
	maps   watchMaps
	ring   *ebpf.Map
	reader *ringbuf.Reader
	slot   uint32
	want   bpf.Watch
	ids    map[bpf.WatchedKey]bool
	left   int // bytes in the ring after the last Read
}

// watchMaps are those of bpf/watch.h.
type watchMaps struct{ word, slots, meters, rings, ids *ebpf.Map }

const (
	// watchLease is how long the programs report to a watcher that does not call Renew. It calls each second;
	// a busy node may hold it up.
	watchLease = 5 * time.Second
	// ringSize is a quarter of a second of events, at 100,000 a second.
	ringSize = 4 << 20
)

// Watch takes a slot, from which on the programs report. It writes to the pinned maps.
func (v *View) Watch(opts WatchOptions) (*Watcher, error) {
	w := &Watcher{want: opts.Watch, ids: map[bpf.WatchedKey]bool{}}
	if opts.Rate > 0 {
		w.want.Interval = uint64(time.Second) / uint64(opts.Rate)
		w.want.Burst = uint64(time.Second)
	}
	err := w.open(v.pins)
	if err == nil {
		err = w.locked(func() error { return w.begin(opts) })
	}
	if err != nil {
		w.close()
		return nil, err
	}
	return w, nil
}

func (w *Watcher) open(pins pinDir) (err error) {
	if w.dir, err = os.Open(pins.maps()); err != nil {
		return fmt.Errorf("open the directory of pinned maps: %w", err)
	}
	for name, m := range map[string]**ebpf.Map{
		"watching": &w.maps.word, "watch_slots": &w.maps.slots, "watch_meters": &w.maps.meters, "watchers": &w.maps.rings, "watched": &w.maps.ids,
	} {
		*m, err = ebpf.LoadPinnedMap(pins.mapPin(name), nil)
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("missing privileges: a monitor writes to the map %s: run as root: %w", pins.mapPin(name), err)
		}
		if err != nil {
			return fmt.Errorf("open the pinned map %s: %w", pins.mapPin(name), err)
		}
	}
	w.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "ring", Type: ebpf.RingBuf, MaxEntries: ringSize})
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("missing privileges: a ring buffer needs CAP_BPF: run as root: %w", err)
	}
	if err != nil {
		return fmt.Errorf("make a ring buffer: %w", err)
	}
	w.reader, err = ringbuf.NewReader(w.ring)
	return err
}

// locked calls fn while no other watcher changes slots.
func (w *Watcher) locked(fn func() error) error {
	if err := unix.Flock(int(w.dir.Fd()), unix.LOCK_EX); err != nil {
		return fmt.Errorf("lock %s: %w", w.dir.Name(), err)
	}
	defer unix.Flock(int(w.dir.Fd()), unix.LOCK_UN)
	return fn()
}

// monotonic is the clock of leases and events, in nanoseconds.
func monotonic() uint64 {
	var now unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) // it can't fail
	return uint64(now.Nano())
}

// begin takes a slot, and removes what killed watchers have left in others.
func (w *Watcher) begin(opts WatchOptions) error {
	free, now := -1, monotonic()
	for slot := range w.maps.slots.MaxEntries() {
		var taken bpf.Watch
		if err := w.maps.slots.Lookup(slot, &taken); err != nil {
			return fmt.Errorf("read the map watch_slots: %w", err)
		}
		if taken.Until > now {
			continue
		}
		if err := w.maps.vacate(slot); err != nil {
			return err
		}
		free = int(slot)
	}
	if free < 0 {
		return fmt.Errorf("%d monitors run already, and the datapath reports to no more: end one of them", w.maps.slots.MaxEntries())
	}
	w.slot = uint32(free)
	if err := w.maps.meters.Put(w.slot, bpf.WatchMeter{}); err != nil {
		return fmt.Errorf("write the map watch_meters: %w", err)
	}
	if err := w.maps.rings.Put(w.slot, w.ring); err != nil {
		return fmt.Errorf("write the map watchers: %w", err)
	}
	if err := w.setIDs(opts.Services, opts.Backends); err != nil {
		return err
	}
	w.want.Until = monotonic() + uint64(watchLease)
	if err := w.maps.slots.Put(w.slot, w.want); err != nil {
		return fmt.Errorf("write the map watch_slots: %w", err)
	}
	return w.maps.publish()
}

// vacate frees a slot.
func (m *watchMaps) vacate(slot uint32) error {
	if err := m.slots.Put(slot, bpf.Watch{}); err != nil {
		return fmt.Errorf("write the map watch_slots: %w", err)
	}
	if err := m.rings.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("write the map watchers: %w", err)
	}
	var key bpf.WatchedKey
	var one uint8
	var left []bpf.WatchedKey
	ids := m.ids.Iterate()
	for ids.Next(&key, &one) {
		if key.Slot == slot {
			left = append(left, key)
		}
	}
	if err := ids.Err(); err != nil {
		return fmt.Errorf("read the map watched: %w", err)
	}
	for _, key := range left {
		if err := m.ids.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("write the map watched: %w", err)
		}
	}
	return nil
}

// publish makes the word of what all watchers want, if it is another.
func (m *watchMaps) publish() error {
	var word, want uint64
	if err := m.word.Lookup(uint32(0), &word); err != nil {
		return fmt.Errorf("read the map watching: %w", err)
	}
	now := monotonic()
	for slot := range m.slots.MaxEntries() {
		var w bpf.Watch
		if err := m.slots.Lookup(slot, &w); err != nil {
			return fmt.Errorf("read the map watch_slots: %w", err)
		}
		if w.Until <= now {
			continue
		}
		want |= w.Verdicts & bpf.WatchingVerdicts
		if w.Flags&bpf.WatchPackets != 0 {
			want |= bpf.WatchingBytes
		}
	}
	if word&(bpf.WatchingVerdicts|bpf.WatchingBytes) == want {
		return nil
	}
	if want != 0 { // 0: no watcher, in any generation
		want |= (word + bpf.WatchingGeneration) &^ (bpf.WatchingVerdicts | bpf.WatchingBytes)
	}
	if err := m.word.Put(uint32(0), want); err != nil {
		return fmt.Errorf("write the map watching: %w", err)
	}
	return nil
}

// SweepWatchers removes what killed watchers have left: until then a ring holds 4 MiB.
func (d *Datapath) SweepWatchers() error {
	dir, err := os.Open(d.pins.maps())
	if err != nil {
		return fmt.Errorf("open the directory of pinned maps: %w", err)
	}
	w := &Watcher{dir: dir}
	defer dir.Close()
	w.maps = watchMaps{d.Map("watching"), d.Map("watch_slots"), d.Map("watch_meters"), d.Map("watchers"), d.Map("watched")}
	return w.locked(func() error {
		now := monotonic()
		for slot := range w.maps.slots.MaxEntries() {
			var taken bpf.Watch
			if err := w.maps.slots.Lookup(slot, &taken); err != nil {
				return fmt.Errorf("read the map watch_slots: %w", err)
			}
			if taken.Until == 0 || taken.Until > now {
				continue
			}
			if err := w.maps.vacate(slot); err != nil {
				return err
			}
		}
		return w.maps.publish()
	})
}

// Renew extends the lease. Call it each second. After a late call, blind is how long the programs may have
// reported nothing.
func (w *Watcher) Renew() (blind time.Duration, err error) {
	err = w.locked(func() error {
		var is bpf.Watch
		if err := w.maps.slots.Lookup(w.slot, &is); err != nil {
			return fmt.Errorf("read the map watch_slots: %w", err)
		}
		if is.Until != w.want.Until {
			return fmt.Errorf("the datapath no longer reports to this monitor: it was held up for more than %s, and its lease has expired", watchLease)
		}
		now := monotonic()
		if now > is.Until {
			blind = time.Duration(now - is.Until)
		}
		w.want.Until = now + uint64(watchLease)
		if err := w.maps.slots.Put(w.slot, w.want); err != nil {
			return fmt.Errorf("write the map watch_slots: %w", err)
		}
		return w.maps.publish()
	})
	return blind, err
}

// SetIDs changes the ids of services and backends that are let through.
func (w *Watcher) SetIDs(services, backends []uint32) error { return w.setIDs(services, backends) }

func (w *Watcher) setIDs(services, backends []uint32) error {
	want := map[bpf.WatchedKey]bool{}
	for _, id := range services {
		want[bpf.WatchedKey{Slot: w.slot, Kind: bpf.WatchedService, Id: id}] = true
	}
	for _, id := range backends {
		want[bpf.WatchedKey{Slot: w.slot, Kind: bpf.WatchedBackend, Id: id}] = true
	}
	for key := range want {
		if w.ids[key] {
			continue
		}
		if err := w.maps.ids.Put(key, uint8(1)); err != nil {
			return fmt.Errorf("write the map watched: %w", err)
		}
		w.ids[key] = true
	}
	for key := range w.ids {
		if want[key] {
			continue
		}
		if err := w.maps.ids.Delete(key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("write the map watched: %w", err)
		}
		delete(w.ids, key)
	}
	return nil
}

// Read reads the next event. If there is none for about so long, it fails with os.ErrDeadlineExceeded. left is how
// many bytes the ring holds beside it.
func (w *Watcher) Read(into *ringbuf.Record, wait time.Duration) (left int, err error) {
	if w.left == 0 || wait == 0 { // else there is one already
		w.reader.SetDeadline(time.Now().Add(wait))
	}
	err = w.reader.ReadInto(into)
	if err != nil {
		w.left = 0
		return 0, err
	}
	w.left = into.Remaining
	return w.left, nil
}

// Meter reads what has become of events, by verdict.
func (w *Watcher) Meter() (m bpf.WatchMeter, err error) {
	if err := w.maps.meters.Lookup(w.slot, &m); err != nil {
		return m, fmt.Errorf("read the map watch_meters: %w", err)
	}
	return m, nil
}

// Stop gives the lease up. When it returns, the programs have put into the ring, or counted as lost, all that they
// will: the kernel waits for them when a ring is taken from them.
func (w *Watcher) Stop() error {
	return w.locked(func() error {
		var is bpf.Watch
		if err := w.maps.slots.Lookup(w.slot, &is); err != nil {
			return fmt.Errorf("read the map watch_slots: %w", err)
		}
		if is.Until != w.want.Until { // it is another's by now
			return nil
		}
		if err := w.maps.vacate(w.slot); err != nil {
			return err
		}
		return w.maps.publish()
	})
}

// Close lets go of everything. What is not read is gone.
func (w *Watcher) Close() error {
	err := w.Stop()
	w.close()
	return err
}

func (w *Watcher) close() {
	if w.reader != nil {
		w.reader.Close()
	}
	for _, m := range []*ebpf.Map{w.ring, w.maps.word, w.maps.slots, w.maps.meters, w.maps.rings, w.maps.ids} {
		if m != nil {
			m.Close()
		}
	}
	if w.dir != nil {
		w.dir.Close()
	}
}

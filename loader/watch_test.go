// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"

	"github.com/waggle-lb/waggle/bpf"
)

// expireLease has a watcher's lease end at once, as if it had been held up.
func expireLease(t *testing.T, d *Datapath, slot uint32) {
	t.Helper()
	var w bpf.Watch
	must(t, d.Map("watch_slots").Lookup(slot, &w))
	w.Until = 1
	must(t, d.Map("watch_slots").Put(slot, w))
}

func watchOf(t *testing.T, dir string, opts WatchOptions) *Watcher {
	t.Helper()
	view, err := Open(dir)
	must(t, err)
	t.Cleanup(func() { view.Close() })
	w, err := view.Watch(opts)
	must(t, err)
	t.Cleanup(func() { w.Close() })
	return w
}

func wordOf(t *testing.T, d *Datapath) (word uint64) {
	t.Helper()
	must(t, d.Map("watching").Lookup(uint32(0), &word))
	return word
}

// TestWatchWord: the word says what all watchers want, as they come and go, and changes each time.
func TestWatchWord(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	wants := func(word uint64) uint64 { return word & (bpf.WatchingVerdicts | bpf.WatchingBytes) }
	first := watchOf(t, dir, WatchOptions{Watch: bpf.Watch{Verdicts: 3}})
	one := wordOf(t, d)
	second := watchOf(t, dir, WatchOptions{Watch: bpf.Watch{Verdicts: 6, Flags: bpf.WatchPackets}})
	if both := wordOf(t, d); wants(one) != 3 || wants(both) != 7|bpf.WatchingBytes || one == both {
		t.Errorf("the word of one watcher is %#x, of both %#x", one, both)
	}
	must(t, d.Map("watching").Put(uint32(0), uint64(0))) // as a program does that finds no lease
	_, err := second.Renew()
	must(t, err)
	if again := wordOf(t, d); wants(again) != 7|bpf.WatchingBytes {
		t.Errorf("after renewal the word is %#x", again)
	}
	must(t, second.Close())
	if left := wordOf(t, d); wants(left) != 3 {
		t.Errorf("the word of the one that is left is %#x", left)
	}
	must(t, first.Close())
	if word := wordOf(t, d); word != 0 {
		t.Errorf("without watchers the word is %#x", word)
	}
}

// TestSweepWatchers: a sweep removes what a watcher with an expired lease has left, and that watcher's next Renew
// fails. Other watchers stay.
func TestSweepWatchers(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	dead := watchOf(t, dir, WatchOptions{Watch: bpf.Watch{Verdicts: 1}, Services: []uint32{5}, Backends: []uint32{6}})
	alive := watchOf(t, dir, WatchOptions{Watch: bpf.Watch{Verdicts: 2}, Services: []uint32{7}})
	expireLease(t, d, dead.slot)
	must(t, d.SweepWatchers())
	var ring ebpf.MapID
	if err := d.Map("watchers").Lookup(dead.slot, &ring); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("the ring of the dead one: %d, %v", ring, err)
	}
	must(t, d.Map("watchers").Lookup(alive.slot, &ring))
	var key bpf.WatchedKey
	var value uint8
	var ids []bpf.WatchedKey
	for it := d.Map("watched").Iterate(); it.Next(&key, &value); {
		ids = append(ids, key)
	}
	if len(ids) != 1 || ids[0] != (bpf.WatchedKey{Slot: alive.slot, Kind: bpf.WatchedService, Id: 7}) {
		t.Errorf("ids: %+v", ids)
	}
	if word := wordOf(t, d); word&bpf.WatchingVerdicts != 2 {
		t.Errorf("the word is %#x", word)
	}
	if _, err := dead.Renew(); err == nil || !strings.Contains(err.Error(), "held up") {
		t.Errorf("the dead one renews its lease: %v", err)
	}
	_, err := alive.Renew()
	must(t, err)
}

// TestLateRenewal: a watcher that was held up goes on if no other has taken its place, and knows how long it was
// blind.
func TestLateRenewal(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, small(dir))
	w := watchOf(t, dir, WatchOptions{Watch: bpf.Watch{Verdicts: 1}})
	expireLease(t, d, w.slot)
	w.want.Until = 1
	blind, err := w.Renew()
	if err != nil || blind <= 0 {
		t.Errorf("blind for %v, %v", blind, err)
	}
	var record ringbuf.Record
	if _, err := w.Read(&record, time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("an event of nothing: %v", err)
	}
}

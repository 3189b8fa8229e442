// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader/loadertest"
)

func neighbourEvent(family int, ip, mac string, state int) netlink.NeighUpdate {
	address, _ := net.ParseMAC(mac)
	return netlink.NeighUpdate{Type: unix.RTM_NEWNEIGH, Neigh: netlink.Neigh{
		LinkIndex: 2, Family: family, IP: net.ParseIP(ip), HardwareAddr: address, State: state,
	}}
}

const mac1, mac2 = "02:00:00:00:00:01", "02:00:00:00:00:02"

func TestNeighbourMoved(t *testing.T) {
	event := func(ip, mac string, state int) netlink.NeighUpdate {
		return neighbourEvent(unix.AF_INET, ip, mac, state)
	}
	onOther := event("10.0.0.1", mac2, unix.NUD_REACHABLE)
	onOther.LinkIndex = 3
	deleted := event("10.0.0.1", mac1, unix.NUD_REACHABLE)
	deleted.Type = unix.RTM_DELNEIGH
	moved := false
	w := &Watch{
		macs:  map[neighbour]string{},
		Moved: func(int, netip.Addr, net.HardwareAddr) { moved = true },
	}
	for _, step := range []struct {
		what  string
		event netlink.NeighUpdate
		moved bool
	}{
		{"new: no record can hold it", event("10.0.0.1", mac1, unix.NUD_REACHABLE), false},
		{"reachability", event("10.0.0.1", mac1, unix.NUD_STALE), false},
		{"reachability", event("10.0.0.1", mac1, unix.NUD_PROBE), false},
		{"another neighbour", event("10.0.0.2", mac2, unix.NUD_REACHABLE), false},
		{"the same address on another device", onOther, false},
		{"a bridge's table", neighbourEvent(unix.AF_BRIDGE, "", mac1, unix.NUD_PERMANENT), false},
		{"a bridge's table", neighbourEvent(unix.AF_BRIDGE, "", mac2, unix.NUD_PERMANENT), false},
		{"a tunnel's table", neighbourEvent(unix.AF_BRIDGE, "10.0.0.1", mac2, unix.NUD_PERMANENT), false},
		{"it moves", event("10.0.0.1", mac2, unix.NUD_REACHABLE), true},
		{"as before", event("10.0.0.1", mac2, unix.NUD_STALE), false},
		{"it fails", event("10.0.0.1", "", unix.NUD_FAILED), true},
		{"it still fails", event("10.0.0.1", "", unix.NUD_FAILED), false},
		{"it is asked for", event("10.0.0.1", "", unix.NUD_INCOMPLETE), false},
		{"it is back: records have asked again since", event("10.0.0.1", mac1, unix.NUD_REACHABLE), false},
		{"it is deleted", deleted, true},
		{"once more", deleted, false},
	} {
		moved = false
		if w.followNeighbour(step.event); moved != step.moved {
			t.Errorf("%s: moved is %v", step.what, moved)
		}
	}
}

// watchFixture counts the calls of a Watch's functions.
type watchFixture struct {
	netnstest.Namespace
	t                      *testing.T
	routed, changed, moved atomic.Int32
}

func newWatchFixture(t *testing.T) *watchFixture {
	return &watchFixture{Namespace: netnstest.New(t), t: t}
}

func (f *watchFixture) start() {
	f.t.Helper()
	w := &Watch{
		Routes:  func(int) bool { return true },
		NewPods: func(*net.IPNet, *netlink.NexthopInfo) bool { return false },
		Log:     loadertest.Quiet(),
		Routed:  func() { f.routed.Add(1) },
		Moved:   func(int, netip.Addr, net.HardwareAddr) { f.moved.Add(1) },
		Changed: func(Change) { f.changed.Add(1) },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := f.Run(func() { w.Run(ctx) })
	f.t.Cleanup(func() {
		cancel()
		<-ended
	})
	f.settle()
	if f.routed.Load() == 0 || f.changed.Load() == 0 {
		f.t.Error("at the start everything is new, but nothing was reported")
	}
}

// settle waits until nothing has been reported for a while.
func (f *watchFixture) settle() {
	const calm = 5 * settle
	before := int32(-1)
	for now := f.routed.Load() + f.changed.Load() + f.moved.Load(); now != before; {
		before = now
		time.Sleep(calm)
		now = f.routed.Load() + f.changed.Load() + f.moved.Load()
	}
}

// reports are the calls that a Watch makes after a change.
type reports struct{ routed, changed, moved bool }

// expect makes a change, and compares the calls after it.
func (f *watchFixture) expect(what string, change func() error, want reports) {
	f.t.Helper()
	f.routed.Store(0)
	f.changed.Store(0)
	f.moved.Store(0)
	must(f.t, change())
	f.settle()
	if got := (reports{f.routed.Load() > 0, f.changed.Load() > 0, f.moved.Load() > 0}); got != want {
		f.t.Errorf("%s: reported %+v, want %+v", what, got, want)
	}
}

func TestWatch(t *testing.T) {
	f := newWatchFixture(t)
	eth := f.AddVeth("eth0", "10.0.0.1/24")
	neigh := func(ip, mac string, state int) *netlink.Neigh {
		n := neighbourEvent(unix.AF_INET, ip, mac, state).Neigh
		n.LinkIndex = eth.Attrs().Index
		return &n
	}
	// Ethernet devices have a bridge's table even without a bridge.
	fdb := func(mac string) func() error {
		n := neighbourEvent(unix.AF_BRIDGE, "", mac, unix.NUD_PERMANENT).Neigh
		n.LinkIndex, n.Flags = eth.Attrs().Index, unix.NTF_SELF
		return func() error { return netlink.NeighSet(&n) }
	}
	must(t, netlink.NeighSet(neigh("10.0.0.2", mac1, unix.NUD_REACHABLE)))
	f.start()

	set := func(n *netlink.Neigh) func() error { return func() error { return netlink.NeighSet(n) } }
	f.expect("a neighbour is stale", set(neigh("10.0.0.2", mac1, unix.NUD_STALE)), reports{})
	f.expect("a new neighbour", set(neigh("10.0.0.3", mac1, unix.NUD_REACHABLE)), reports{})
	f.expect("a bridge learns", fdb(mac1), reports{})
	f.expect("a bridge learns more", fdb(mac2), reports{})
	f.expect("a neighbour moves", set(neigh("10.0.0.2", mac2, unix.NUD_REACHABLE)), reports{moved: true})
	f.expect("a neighbour is gone", func() error { return netlink.NeighDel(neigh("10.0.0.3", mac1, 0)) }, reports{moved: true})
	f.expect("a route", func() error { return netlink.RouteAdd(netnstest.Route(eth, "192.0.2.0/24", "10.0.0.2")) }, reports{routed: true})
	f.expect("no route", func() error { return netlink.RouteDel(netnstest.Route(eth, "192.0.2.0/24", "10.0.0.2")) }, reports{routed: true})
	f.expect("an address", func() error { f.AddAddr(eth, "10.0.1.1/24"); return nil }, reports{routed: true, changed: true})
	f.expect("a device", func() error { f.AddVeth("eth1"); return nil }, reports{routed: true, changed: true})
}

// While a routing daemon learns its table, events never cease. The next hops must not be wrong for
// as long.
func TestWatchIsNotStarved(t *testing.T) {
	f := newWatchFixture(t)
	eth := f.AddVeth("eth0", "10.0.0.1/24")
	f.start()
	f.routed.Store(0)
	r := netnstest.Route(eth, "192.0.2.0/24", "10.0.0.2")
	for end := time.Now().Add(5 * patience); time.Now().Before(end); time.Sleep(settle / 8) {
		must(t, netlink.RouteReplace(r))
		r.MTU = 2900 - max(r.MTU, 1400) // 1500 and 1400 in turns
	}
	if n := f.routed.Load(); n < 2 {
		t.Errorf("reported %d times during a second of changes", n)
	}
}

// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
)

// following is a takeover with the kernel's table of a network namespace. The test makes the changes that
// time and packets would make.
type following struct {
	*Takeover
	t *testing.T
}

func newFollowing(t *testing.T, flows uint32) *following {
	netnstest.New(t)
	dp, _ := loadertest.Load(t, func(opts *loader.Options) {
		opts.MapSizes["flows4"], opts.MapSizes["flows6"] = flows, flows
	})
	takeover, err := New(dp, noShared, func(error) {}, loadertest.Quiet())
	must(t, err)
	return &following{takeover, t}
}

// has makes an entry of the kernel's.
func (f *following) has(e conntrack.Entry) conntrack.Entry {
	f.t.Helper()
	e.Status = conntrack.StatusSeenReply | conntrack.StatusAssured
	must(f.t, f.table.Create(e))
	return e
}

func (f *following) loses(e conntrack.Entry) {
	f.t.Helper()
	must(f.t, f.table.Delete(e.Orig, e.Proto))
}

// becomes replaces an entry. The tuple of the client's packets stays.
func (f *following) becomes(e conntrack.Entry) {
	f.t.Helper()
	f.loses(e)
	f.has(e)
}

// records returns those of the client's tuple, one for each zone.
func (f *following) records(e conntrack.Entry) (all []maps.Flow) {
	f.t.Helper()
	must(f.t, maps.Foreign(f.dp, maps.FamilyOf(e.Orig.Src.Addr()), func(r maps.Flow) {
		if r.Key.Src == e.Orig.Src && r.Key.Dst == e.Orig.Dst && r.Key.Proto == e.Proto {
			all = append(all, r)
		}
	}))
	return all
}

func (f *following) expectState(e conntrack.Entry, want uint32) {
	f.t.Helper()
	all := f.records(e)
	if len(all) != 2 {
		f.t.Fatalf("%s: %d records of the client's, want 2", e, len(all))
	}
	for _, r := range all {
		if r.State != want || r.To.Dst != e.Reply.Src {
			f.t.Errorf("%s: state %#x, leads to %s, want %#x", e, r.State, r.To.Dst, want)
		}
	}
}

func (f *following) expectNone(e conntrack.Entry) {
	f.t.Helper()
	if all := f.records(e); len(all) > 0 {
		f.t.Errorf("%s: there are still %+v", e, all)
	}
	f.expectNoAnswers(e)
}

func (f *following) expectNoAnswers(e conntrack.Entry) {
	f.t.Helper()
	var left []maps.Flow
	must(f.t, maps.Foreign(f.dp, maps.FamilyOf(e.Orig.Src.Addr()), func(r maps.Flow) {
		if r.Key.Src == e.Reply.Src && r.Key.Dst == e.Reply.Dst {
			left = append(left, r)
		}
	}))
	if len(left) > 0 {
		f.t.Errorf("%s: of the answers there are still %+v", e, left)
	}
}

const openState = bpf.StateAnswered | bpf.StateConfirmed

// ofClient is an entry with a client of its own.
func ofClient(proto uint8, n int, v6 bool) conntrack.Entry {
	src, svc, backend := fmt.Sprintf("192.0.2.%d:40000", n), frontend, pod
	if v6 {
		src, svc, backend = fmt.Sprintf("[2001:db8::%d]:40000", n), "[fd00:10:96::1]:80", "[fd00:10:1::1]:8080"
	}
	return entry(proto, src, svc, backend, src)
}

// TestAdoptedState: a record has the state of the kernel's entry, at first and later, and ends with the
// entry. Connections that had ended before, or that end between the look at the table and the attachment of
// programs, must not stay open for a day.
func TestAdoptedState(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %t", v6), func(t *testing.T) { adoptedState(t, v6) })
	}
}

func adoptedState(t *testing.T, v6 bool) {
	f := newFollowing(t, 4096)
	open, closing, over, udp := ofClient(unix.IPPROTO_TCP, 1, v6), ofClient(unix.IPPROTO_TCP, 2, v6), ofClient(unix.IPPROTO_TCP, 3, v6), ofClient(unix.IPPROTO_UDP, 4, v6)
	closing.State, over.State = conntrack.TCPCloseWait, conntrack.TCPTimeWait
	for _, e := range []conntrack.Entry{open, closing, over, udp} {
		f.has(e)
	}
	f.Begin(Attaching)
	f.expectState(open, openState)
	f.expectState(closing, openState|bpf.StateFinClient)
	f.expectState(udp, openState)
	f.expectNone(over)

	closing.State = conntrack.TCPLastAck
	f.becomes(closing)
	f.loses(open)
	left, _ := f.follow()
	f.expectState(closing, openState|bothFINs)
	f.expectNone(open)
	f.expectState(udp, openState)
	if left != 2*4 {
		t.Errorf("%d records are left, want %d", left, 2*4)
	}

	f.loses(udp)
	f.loses(closing)
	f.follow()
	f.expectNone(udp)
	f.expectNone(closing)
	if left, _ := f.follow(); left != 0 {
		t.Errorf("%d records are left, want none", left)
	}
}

// TestAdoptedMoves: the kernel now has another connection under the tuple of an adopted one.
func TestAdoptedMoves(t *testing.T) {
	f := newFollowing(t, 4096)
	e := f.has(ofClient(unix.IPPROTO_TCP, 1, false))
	f.Begin(Attaching)
	moved := e
	moved.Reply.Src = netip.MustParseAddrPort("10.1.0.2:8080")
	f.becomes(moved)
	f.follow()
	f.expectState(moved, openState)
	var ofFormer int
	must(t, maps.Foreign(f.dp, maps.IPv4, func(r maps.Flow) {
		if r.Key.Src == e.Reply.Src {
			ofFormer++
		}
	}))
	if ofFormer != 0 {
		t.Errorf("%d records of the former endpoint's answers are left", ofFormer)
	}

	// A reset that the kernel ignored: the connection goes on.
	for _, r := range f.records(moved) {
		r.State |= bpf.StateReset
		if found, err := f.dp.Follow(r.Adoption()); err != nil || !found {
			t.Fatal(found, err)
		}
	}
	f.expectState(moved, openState|bpf.StateReset)
	f.follow()
	f.expectState(moved, openState)

	// No longer translated.
	plain := moved
	plain.Reply = plain.Orig.Reversed()
	f.becomes(plain)
	f.follow()
	f.expectNone(moved)
}

// TestAdoptedAge: while the kernel's entry lives, silence does not end its record. The next look comes when
// the first entry may have expired.
func TestAdoptedAge(t *testing.T) {
	f := newFollowing(t, 4096)
	e := ofClient(unix.IPPROTO_UDP, 1, false)
	e.Timeout = 3 * time.Second
	f.has(e)
	f.Begin(Attaching)
	if left, expires := f.follow(); left != 4 || expires > 4*time.Second {
		t.Errorf("%d records left, the first may be gone after %v, want 4, and 4 s at most", left, expires)
	}
	_, hz, err := f.dp.Jiffies()
	must(t, err)
	e.Timeout = time.Hour
	f.becomes(e)
	f.age(time.Minute, hz)
	old := f.records(e)[0].LastSeen
	f.follow()
	for _, r := range f.records(e) {
		if r.LastSeen == old {
			t.Errorf("%+v is as old as it was", r)
		}
	}
}

// age makes all records older.
func (f *following) age(by time.Duration, hz uint32) {
	f.t.Helper()
	m := f.dp.Map("flows4")
	for i := range m.MaxEntries() {
		var set bpf.FlowSet4
		must(f.t, m.Lookup(i, &set))
		was := set
		for way := range set.At {
			set.At[way].Flow.LastSeen -= uint32(by.Seconds()) * hz
		}
		if set != was {
			must(f.t, m.Put(i, set))
		}
	}
}

// TestAdoptionLeavesRoom: adopted connections take at most half of the table, and the rest is reported.
func TestAdoptionLeavesRoom(t *testing.T) {
	const flows = 64
	f := newFollowing(t, flows)
	var warning error
	f.warn = func(err error) { warning = err }
	const entries = 100
	for n := range entries {
		f.has(ofClient(unix.IPPROTO_UDP, n+1, false))
	}
	f.Begin(Attaching)
	f.End(Attaching)
	f.expectHalfFull(flows, entries, warning)
}

// expectHalfFull expects that records were made of so many connections until half of a table for so many
// flows was full, and that a warning counts the others.
func (f *following) expectHalfFull(flows, connections uint32, warning error) {
	f.t.Helper()
	const records = 4 // of one connection
	census, err := f.dp.Expire(false)
	must(f.t, err)
	half := bpf.SetsForFlows(flows) * bpf.Ways / 2
	if census.Foreign != half {
		f.t.Errorf("%d adopted records in a table of %d, want %d", census.Foreign, 2*half, half)
	}
	want := fmt.Sprintf("%d of them break", connections-half/records)
	if warning == nil || !strings.Contains(warning.Error(), want) {
		f.t.Errorf("the warning is %v, want %q", warning, want)
	}
}

// TestAdoptionMemory: a takeover of many connections needs little memory.
func TestAdoptionMemory(t *testing.T) {
	const entries = 20_000
	f := newFollowing(t, 4*entries)
	e := ofClient(unix.IPPROTO_TCP, 1, false)
	for n := range entries {
		e.Orig.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(n >> 8), byte(n)}), 40000)
		e.Reply.Dst = e.Orig.Src
		f.has(e)
	}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f.Begin(Attaching)
	left, _ := f.follow()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if left != 4*entries {
		t.Errorf("%d records, want %d", left, 4*entries)
	}
	kept := int64(after.HeapInuse) - int64(before.HeapInuse)
	t.Logf("%d connections: %d KiB of heap more than before", entries, kept>>10)
	if kept > 4<<20 {
		t.Errorf("%d connections keep %d KiB of heap", entries, kept>>10)
	}
}

// TestOneBadConnection: a connection that can't be adopted is reported, and the others are adopted.
func TestOneBadConnection(t *testing.T) {
	f := newFollowing(t, 64)
	a := adoption{dp: f.dp, room: map[maps.Family]int{maps.IPv4: 8}}
	bad := ofClient(unix.IPPROTO_TCP, 1, false)
	must(t, f.dp.Close())
	a.take(bad)
	a.take(bad)
	if a.failed != 2 || a.failure == nil || errors.Is(a.failure, conntrack.ErrNotFound) || !strings.Contains(a.failure.Error(), "192.0.2.1:40000") {
		t.Errorf("%d failed, for %v", a.failed, a.failure)
	}
}

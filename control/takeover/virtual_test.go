// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/control/ipvs"
)

// virtualTable is IPVS' table, which the test writes in place of the kernel.
type virtualTable struct {
	all []ipvs.Connection
	bad int
	err error
}

func (v *virtualTable) each(fn func(ipvs.Connection)) (bad int, err error) {
	for _, c := range v.all {
		fn(c)
	}
	return v.bad, v.err
}

func (v *virtualTable) lose(c ipvs.Connection) {
	for i := range v.all {
		if v.all[i].Client == c.Client && v.all[i].Proto == c.Proto {
			v.all = append(v.all[:i:i], v.all[i+1:]...)
			return
		}
	}
}

func newVirtualFollowing(t *testing.T, flows uint32) (*following, *virtualTable) {
	f, table := newFollowing(t, flows), &virtualTable{}
	f.virtual = table.each
	return f, table
}

// virtualOf is IPVS' connection for an entry.
func virtualOf(e conntrack.Entry) ipvs.Connection {
	return ipvs.Connection{Proto: e.Proto, Client: e.Orig.Src, Virtual: e.Orig.Dst, Real: e.Reply.Src, Expires: e.Timeout}
}

// TestAdoptsVirtual: connections of IPVS are adopted, masqueraded ones by the kernel's entry, others with and without
// one. Connections that have ended are not. The records have IPVS' state where the kernel has no entry, and end with
// the last of both entries.
func TestAdoptsVirtual(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprintf("IPv6 %t", v6), func(t *testing.T) { adoptsVirtual(t, v6) })
	}
}

func adoptsVirtual(t *testing.T, v6 bool) {
	f, table := newVirtualFollowing(t, 4096)
	masked, udp, closing := ofClient(unix.IPPROTO_TCP, 1, v6), ofClient(unix.IPPROTO_UDP, 2, v6), ofClient(unix.IPPROTO_TCP, 3, v6)
	over, expiring := ofClient(unix.IPPROTO_TCP, 4, v6), ofClient(unix.IPPROTO_UDP, 5, v6)
	masked.Reply.Dst = netip.AddrPortFrom(masked.Reply.Src.Addr().Next(), 5000)
	all := map[*conntrack.Entry]ipvs.Connection{}
	for _, e := range []*conntrack.Entry{&masked, &udp, &closing, &over, &expiring} {
		all[e] = virtualOf(*e)
	}
	set := func(e *conntrack.Entry, state ipvs.State, expires time.Duration) {
		c := all[e]
		c.State, c.Expires = state, expires
		table.lose(c)
		table.all, all[e] = append(table.all, c), c
	}
	set(&masked, ipvs.Open, time.Hour)
	set(&udp, ipvs.Open, time.Minute)
	set(&closing, ipvs.HalfClosed, time.Minute)
	set(&over, ipvs.Closed, time.Minute)
	set(&expiring, ipvs.Open, time.Second)
	f.has(masked)
	f.Begin(Attaching)
	f.expectState(masked, openState)
	f.expectState(udp, openState)
	f.expectState(closing, openState|bpf.StateFinClient)
	f.expectNone(over)
	f.expectNone(expiring)
	for _, r := range f.records(masked) {
		if r.To.Src != masked.Reply.Dst {
			t.Errorf("masqueraded as %s, want %s", r.To.Src, masked.Reply.Dst)
		}
	}

	f.loses(masked) // the next packet makes a new entry, with another port
	set(&closing, ipvs.Closed, time.Minute)
	set(&udp, ipvs.Open, 3*time.Second)
	left, expires := f.follow()
	f.expectState(masked, openState)
	f.expectState(closing, openState|bothFINs)
	if left != 3*4 || expires > 4*time.Second {
		t.Errorf("%d records left, the first may be gone after %v, want %d, and 4 s at most", left, expires, 3*4)
	}
	before := masked
	masked.Reply.Dst = netip.AddrPortFrom(masked.Reply.Dst.Addr(), 5001)
	f.has(masked)
	f.follow()
	f.expectState(masked, openState)
	f.expectNoAnswers(before)
	f.loses(masked)
	table.lose(all[&closing])
	table.lose(virtualOf(masked))
	f.follow()
	f.expectNone(closing)
	f.expectNone(masked)
	f.expectState(udp, openState)
	table.lose(all[&udp])
	if left, _ := f.follow(); left != 0 {
		t.Errorf("%d records are left, want none", left)
	}
}

// TestVirtualAnswers: where the kernel has no entry of a connection any more, and the backend sends first, the kernel
// makes an entry in which the answers come first. IPVS' data counts then.
func TestVirtualAnswers(t *testing.T) {
	f, table := newVirtualFollowing(t, 4096)
	e := ofClient(unix.IPPROTO_UDP, 1, false)
	table.all = []ipvs.Connection{virtualOf(e)}
	answers := conntrack.Entry{Proto: e.Proto, Orig: e.Reply, Reply: conntrack.Tuple{Src: e.Orig.Src, Dst: e.Orig.Dst}, Timeout: time.Minute}
	f.has(answers)
	f.Begin(Attaching)
	f.expectState(e, openState)
	f.follow()
	f.expectState(e, openState)
}

// TestVirtualFailure: a table that can't be read ends no record, and a line that can't be parsed affects no other.
func TestVirtualFailure(t *testing.T) {
	f, table := newVirtualFollowing(t, 4096)
	e := ofClient(unix.IPPROTO_TCP, 1, false)
	table.all, table.bad = []ipvs.Connection{virtualOf(e)}, 1
	f.Begin(Attaching)
	f.expectState(e, openState)
	table.all, table.err = nil, errors.New("broken")
	if left, _ := f.follow(); left != 4 {
		t.Errorf("%d records are left, want 4", left)
	}
	f.expectState(e, openState)
}

// TestVirtualLeavesRoom: IPVS' connections take at most half of the table, together with the others.
func TestVirtualLeavesRoom(t *testing.T) {
	const flows = 64
	f, table := newVirtualFollowing(t, flows)
	var warning error
	f.warn = func(err error) { warning = err }
	const entries = 100
	for n := range entries {
		e := ofClient(unix.IPPROTO_UDP, n+1, false)
		if n%2 == 0 {
			f.has(e)
		} else {
			table.all = append(table.all, virtualOf(e))
		}
	}
	f.Begin(Attaching)
	f.expectHalfFull(flows, entries, warning)
}

// TestVirtualMemory: a look needs little memory for IPVS' connections.
func TestVirtualMemory(t *testing.T) {
	const connections = 262_144
	one := virtualOf(ofClient(unix.IPPROTO_TCP, 1, false))
	v := virtuals{each: func(fn func(ipvs.Connection)) (int, error) {
		for n := range connections {
			one.Client = netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(n >> 16), byte(n >> 8), byte(n)}), 40000)
			fn(one)
		}
		return 0, nil
	}}
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	v.load()
	runtime.ReadMemStats(&after)
	if len(v.all) != connections {
		t.Errorf("%d connections, want %d", len(v.all), connections)
	}
	took := int64(after.TotalAlloc - before.TotalAlloc)
	t.Logf("%d connections took %d KiB", connections, took>>10)
	if took > 32<<20 {
		t.Errorf("%d connections take %d KiB", connections, took>>10)
	}
}

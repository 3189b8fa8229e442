// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"errors"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// newTable opens the table of the test's own network namespace.
func newTable(t testing.TB) *Table {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes network namespaces")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	table, err := Open()
	must(t, err)
	t.Cleanup(func() { must(t, table.Close()) })
	return table
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func tuple(src, dst string) Tuple {
	return Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
}

const answered = StatusSeenReply | StatusAssured

// TestCreate: what is written is read back, entry by entry and all together.
func TestCreate(t *testing.T) {
	table := newTable(t)
	entries := []Entry{
		{Proto: unix.IPPROTO_TCP, Orig: tuple("192.0.2.1:40000", "10.96.0.1:80"), Reply: tuple("10.1.0.1:8080", "10.0.0.1:5000"), State: TCPEstablished, Mark: 0x80},
		{Proto: unix.IPPROTO_TCP, Orig: tuple("192.0.2.1:40001", "10.96.0.1:80"), Reply: tuple("10.1.0.1:8080", "192.0.2.1:40001"), State: TCPFinWait},
		{Proto: unix.IPPROTO_UDP, Orig: tuple("192.0.2.1:40000", "10.96.0.1:80"), Reply: tuple("10.1.0.1:8080", "192.0.2.1:40000")},
		{Proto: unix.IPPROTO_TCP, Orig: tuple("[2001:db8::1]:40000", "[fd00::1]:80"), Reply: tuple("[fd01::1]:8080", "[fd02::1]:5000"), State: TCPEstablished},
	}
	want := map[Tuple]Entry{}
	for i := range entries {
		e := &entries[i]
		e.Timeout, e.Status = time.Hour, answered
		must(t, table.Create(*e))
		if err := table.Create(*e); !errors.Is(err, ErrExists) {
			t.Errorf("%s, again: %v", e, err)
		}
		for _, tuple := range []Tuple{e.Orig, e.Reply} {
			got, err := table.Get(tuple, e.Proto)
			must(t, err)
			expect(t, got, *e)
		}
		want[e.Orig] = *e
	}
	for _, family := range []uint8{unix.AF_INET, unix.AF_INET6} {
		for _, e := range all(t, table, family, StatusDstNAT) {
			if w, ok := want[e.Orig]; !ok || (w.Proto == e.Proto && w.Orig.Dst != e.Orig.Dst) {
				t.Errorf("there is also %s", e)
			}
		}
	}
	if n4, n6 := len(all(t, table, unix.AF_INET, StatusDstNAT)), len(all(t, table, unix.AF_INET6, StatusDstNAT)); n4 != 3 || n6 != 1 {
		t.Errorf("%d entries of IPv4, %d of IPv6, want 3, 1", n4, n6)
	}
	for _, e := range entries {
		must(t, table.Delete(e.Reply, e.Proto))
		if _, err := table.Get(e.Orig, e.Proto); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s, deleted: %v", e, err)
		}
		if err := table.Delete(e.Orig, e.Proto); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s, deleted twice: %v", e, err)
		}
	}
}

func expect(t *testing.T, got, want Entry) {
	t.Helper()
	if got.Proto != want.Proto || got.Orig != want.Orig || got.Reply != want.Reply || got.State != want.State || got.Mark != want.Mark {
		t.Errorf("got  %s, state %d, mark %#x\nwant %s, state %d, mark %#x", got, got.State, got.Mark, want, want.State, want.Mark)
	}
	if got.Status&(answered|StatusDstNAT) != answered|StatusDstNAT {
		t.Errorf("%s: status %#x", got, got.Status)
	}
	if got.Timeout < want.Timeout-10*time.Second || got.Timeout > want.Timeout {
		t.Errorf("%s: timeout %v, want about %v", got, got.Timeout, want.Timeout)
	}
}

func all(t *testing.T, table *Table, family uint8, status uint32) (entries []Entry) {
	t.Helper()
	bad, err := table.Each(family, status, func(e Entry) { entries = append(entries, e) })
	must(t, err)
	if bad > 0 {
		t.Errorf("%d entries could not be understood", bad)
	}
	return entries
}

// TestUntranslated: the kernel leaves out entries without the wanted status.
func TestUntranslated(t *testing.T) {
	table := newTable(t)
	e := Entry{Proto: unix.IPPROTO_UDP, Orig: tuple("192.0.2.1:1", "192.0.2.2:2"), Reply: tuple("192.0.2.2:2", "192.0.2.1:1"), Timeout: time.Hour}
	must(t, table.Create(e))
	if n := len(all(t, table, unix.AF_INET, StatusDstNAT)); n != 0 {
		t.Errorf("%d with a translated destination, want none", n)
	}
	if n := len(all(t, table, unix.AF_INET, 0)); n != 1 {
		t.Errorf("%d entries, want 1", n)
	}
}

// many is as large a table as a test can fill in a second or two.
const many = 100_000

// TestMemory: reading a large table takes no memory in proportion to it.
func TestMemory(t *testing.T) {
	table := newTable(t)
	for i := range many {
		src := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 2, byte(i >> 16), byte(i >> 8)}), 10000+uint16(i&255))
		dst := netip.MustParseAddrPort("10.96.0.1:80")
		must(t, table.Create(Entry{
			Proto: unix.IPPROTO_TCP, Orig: Tuple{src, dst}, Reply: Tuple{netip.MustParseAddrPort("10.1.0.1:8080"), src},
			State: TCPEstablished, Timeout: time.Hour, Status: answered,
		}))
	}
	runtime.GC()
	var before, now runtime.MemStats
	runtime.ReadMemStats(&before)
	read, most := 0, uint64(0)
	bad, err := table.Each(unix.AF_INET, StatusDstNAT, func(Entry) {
		if read++; read%1000 == 0 {
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapInuse)
		}
	})
	must(t, err)
	if read != many || bad != 0 {
		t.Errorf("read %d entries, %d of them bad, of %d", read, bad, many)
	}
	extra := int64(most) - int64(before.HeapInuse)
	t.Logf("%d entries read with %d KiB of heap more than before", read, extra>>10)
	const limit = 8 << 20 // garbage included
	if extra > limit {
		t.Errorf("%d entries took %d KiB of heap, want at most %d", many, extra>>10, limit>>10)
	}
}

// TestDecode: a short or wrong message must not panic.
func TestDecode(t *testing.T) {
	e := Entry{Proto: unix.IPPROTO_TCP, Orig: tuple("192.0.2.1:40000", "10.96.0.1:80"), Reply: tuple("10.1.0.1:8080", "10.0.0.1:5000")}
	m := newMessage(nil, 0, 0, unix.AF_INET)
	m.tuple(1, e.Orig, e.Proto)
	m.tuple(2, e.Reply, e.Proto)
	m.word(3, answered)
	m.word(7, 60)
	body := []byte(m)[unix.NLMSG_HDRLEN:]
	got, err := decode(body)
	must(t, err)
	if e.Status, e.Timeout = answered, time.Minute; got != e {
		t.Errorf("got %+v, want %+v", got, e)
	}
	for n := range body {
		if _, err := decode(body[:n:n]); err == nil && n%4 != 0 {
			t.Errorf("%d of %d bytes are taken for an entry", n, len(body))
		}
	}
	for i := range body {
		for _, b := range []byte{0, 1, 3, 255} {
			broken := append([]byte(nil), body...)
			broken[i] = b
			_, _ = decode(broken) // a wrong one may have a meaning; it must not panic
		}
	}
}

// TestOneBadEntry: an entry that can't be decoded is skipped.
func TestOneBadEntry(t *testing.T) {
	var batch []byte
	for i := range 3 {
		m := newMessage(nil, 0, 0, unix.AF_INET)
		e := tuple("192.0.2.1:1", "10.96.0.1:80")
		if i == 1 {
			m.nest(1, func() { m.attr(1, 1, 2, 3) }) // of no addresses
		} else {
			m.tuple(1, e, unix.IPPROTO_TCP)
			m.tuple(2, e.Reversed(), unix.IPPROTO_TCP)
		}
		batch = append(batch, m.finish(0)...)
	}
	var table Table
	r := reading{fn: func(Entry) {}}
	if done, err := table.messages(batch, r.take); done || err != nil {
		t.Errorf("done %t, %v", done, err)
	}
	if r.good != 2 || r.bad != 1 {
		t.Errorf("%d good, %d bad, want 2, 1", r.good, r.bad)
	}
}

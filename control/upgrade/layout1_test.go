// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// oldMap makes a map as the previous release does.
func oldMap(t *testing.T, typ ebpf.MapType, keySize, valueSize uint32) *ebpf.Map {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes BPF maps")
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: typ, KeySize: keySize, ValueSize: valueSize, MaxEntries: 3 * batch / 2})
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// TestReadTables: all records are read, in more than one batch, except those that are free or being
// written.
func TestReadTables(t *testing.T) {
	old := map[string]*ebpf.Map{
		"flows4":     oldMap(t, ebpf.Hash, 16, 56),
		"flows6":     oldMap(t, ebpf.Hash, 40, 80),
		"flows_new4": oldMap(t, ebpf.Array, 4, 640),
		"flows_new6": oldMap(t, ebpf.Array, 4, 1024),
	}
	const many = batch + 10
	f := flow{Service: 1, Backend: 2, LastSeen: 3, Expect: 4, State: 3, Sport: 5, Dport: 6, Flags: oldReply}
	for i := range uint32(many) {
		must(t, old["flows4"].Put(&key4{Saddr: i, Proto: unix.IPPROTO_TCP}, &flow4{Flow: f, Daddr: 7}))
		must(t, old["flows6"].Put(&key6{Saddr: [4]uint32{i}, Egress: 1}, &flow6{Flow: f, Daddr: [4]uint32{0, 0, 0, 8}}))
		s4, s6 := new(set4), new(set6)
		for way, tag := range []uint32{0, 2, 3, 1} { // free, a record, and two that are being written
			s4.Ways.Tag[way], s6.Ways.Tag[way] = tag, tag
		}
		s4.At[1].Key.Saddr, s4.At[1].Flow.Flow = i+many, f
		s6.At[1].Key.Saddr[0], s6.At[1].Flow.Flow = i+many, f
		must(t, old["flows_new4"].Put(i, s4))
		must(t, old["flows_new6"].Put(i, s6))
	}
	seen := map[[2]uint32]record{}
	for _, table := range tables {
		must(t, table.read(old[table.name], func(r record) error {
			seen[[2]uint32{r.family, r.key.Saddr.Word[0]}] = r
			return nil
		}))
	}
	if len(seen) != 4*many {
		t.Errorf("%d records, want %d", len(seen), 4*many)
	}
	got := seen[[2]uint32{unix.AF_INET, many - 1}]
	want := record{family: unix.AF_INET, service: 1, backend: 2, lastSeen: 3, expect: 4, flags: oldReply, state: bpf.StateAnswered | bpf.StateConfirmed}
	want.key = bpf.Tuple{Saddr: bpf.Addr{Word: [4]uint32{many - 1}}, Proto: unix.IPPROTO_TCP}
	want.to = bpf.Tuple{Daddr: bpf.Addr{Word: [4]uint32{7}}, Sport: 5, Dport: 6, Proto: unix.IPPROTO_TCP}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := seen[[2]uint32{unix.AF_INET6, many - 1}]; !got.egress || got.to.Daddr.Word[3] != 8 || got.service != 1 {
		t.Errorf("got %+v", got)
	}
}

// TestStates: the bits are those of our states.
func TestStates(t *testing.T) {
	for old, want := range map[uint32]uint32{
		1: bpf.StateAnswered, 2: bpf.StateConfirmed, 4: bpf.StateFinClient, 8: bpf.StateFinBackend, 16: bpf.StateReset,
	} {
		if got := record4(&key4{}, &flow4{Flow: flow{State: old}}).state; got != want {
			t.Errorf("the state %d is %d, want %d", old, got, want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Layout 1 of the tables of flows: flows4 and flows6 are hashes of confirmed records; flows_new4 and
// flows_new6 are arrays of sets of the others.
type (
	key4 struct {
		Saddr, Daddr  uint32
		Sport, Dport  uint16
		Proto, Egress uint8
		_             uint16
	}
	key6 struct {
		Saddr, Daddr  [4]uint32
		Sport, Dport  uint16
		Proto, Egress uint8
		_             uint16
	}
	flow struct {
		Service, Backend, LastSeen, Expect, State uint32
		_                                         [20]byte // the next hop: it is looked up again
		Sport, Dport                              uint16   // of the rewrite
		Flags                                     uint16
		_                                         uint16
	}
	flow4 struct {
		Flow         flow
		Saddr, Daddr uint32
	}
	flow6 struct {
		Flow         flow
		Saddr, Daddr [4]uint32
	}
	ways struct {
		Tag [waysOfSet]uint32
		_   [32]byte
	}
	set4 struct {
		Ways ways
		At   [waysOfSet]struct {
			Key  key4
			Flow flow4
		}
	}
	set6 struct {
		Ways ways
		At   [waysOfSet]struct {
			Key  key6
			Flow flow6
		}
	}
)

const waysOfSet = 8

// The bits of a record's flags.
const (
	oldReply        = 1
	oldExpress      = 2
	oldSplit        = 4
	oldSplitSource  = 8
	oldMirrorEgress = 16
	oldForeign      = 64
)

// record is a record of either family. The zones of its tuples are not known yet.
type record struct {
	family   uint32 // unix.AF_INET or unix.AF_INET6
	key, to  bpf.Tuple
	egress   bool // the record is for packets that leave the node
	service  uint32
	backend  uint32
	lastSeen uint32 // jiffies
	expect   uint32
	state    uint32 // as bpf.State*
	flags    uint16 // old*
}

func (r *record) fill(family uint32, egress uint8, f *flow) {
	r.family = family
	r.egress = egress != 0
	r.service, r.backend, r.lastSeen, r.expect = f.Service, f.Backend, f.LastSeen, f.Expect
	r.state = f.State * bpf.StateAnswered & bpf.StateMask // the same bits, from the first on
	r.flags = f.Flags
	r.to.Sport, r.to.Dport, r.to.Proto = f.Sport, f.Dport, r.key.Proto
}

func record4(k *key4, v *flow4) record {
	var r record
	r.key = bpf.Tuple{Sport: k.Sport, Dport: k.Dport, Proto: k.Proto}
	r.key.Saddr.Word[0], r.key.Daddr.Word[0] = k.Saddr, k.Daddr
	r.fill(unix.AF_INET, k.Egress, &v.Flow)
	r.to.Saddr.Word[0], r.to.Daddr.Word[0] = v.Saddr, v.Daddr
	return r
}

func record6(k *key6, v *flow6) record {
	var r record
	r.key = bpf.Tuple{Sport: k.Sport, Dport: k.Dport, Proto: k.Proto}
	r.key.Saddr.Word, r.key.Daddr.Word = k.Saddr, k.Daddr
	r.fill(unix.AF_INET6, k.Egress, &v.Flow)
	r.to.Saddr.Word, r.to.Daddr.Word = v.Saddr, v.Daddr
	return r
}

// batch is how many elements of a map are read at a time.
const batch = 1024

// walk calls fn for all elements of a map. It may miss elements that come or go meanwhile.
func walk[K, V any](m *ebpf.Map, fn func(*K, *V) error) error {
	keys, values := make([]K, batch), make([]V, batch)
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		end := errors.Is(err, ebpf.ErrKeyNotExist)
		if err != nil && !end {
			return fmt.Errorf("read %s: %w", m, err)
		}
		for i := range n {
			if err := fn(&keys[i], &values[i]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
	}
}

// holds reports whether a way has a record: its tag is even, and not 0.
func holds(tag uint32) bool { return tag != 0 && tag&1 == 0 }

// tables are the maps, in the order in which they are read. A record that is confirmed moves from
// the sets to the hash; this order does not miss it.
var tables = []struct {
	name string
	read func(*ebpf.Map, func(record) error) error
}{
	{"flows_new4", readSets4}, {"flows_new6", readSets6}, {"flows4", readHash4}, {"flows6", readHash6},
}

func readHash4(m *ebpf.Map, fn func(record) error) error {
	return walk(m, func(k *key4, v *flow4) error { return fn(record4(k, v)) })
}

func readHash6(m *ebpf.Map, fn func(record) error) error {
	return walk(m, func(k *key6, v *flow6) error { return fn(record6(k, v)) })
}

func readSets4(m *ebpf.Map, fn func(record) error) error {
	return walk(m, func(index *uint32, s *set4) error {
		return twice(m, *index, s, func(s *set4) *[waysOfSet]uint32 { return &s.Ways.Tag }, func(s *set4, i int) record {
			return record4(&s.At[i].Key, &s.At[i].Flow)
		}, fn)
	})
}

func readSets6(m *ebpf.Map, fn func(record) error) error {
	return walk(m, func(index *uint32, s *set6) error {
		return twice(m, *index, s, func(s *set6) *[waysOfSet]uint32 { return &s.Ways.Tag }, func(s *set6, i int) record {
			return record6(&s.At[i].Key, &s.At[i].Flow)
		}, fn)
	})
}

// twice reads a set once more, and calls fn for the records that are in both copies: the first copy
// of a record that was being written may be incomplete.
func twice[S any](m *ebpf.Map, index uint32, first *S, tags func(*S) *[waysOfSet]uint32, at func(*S, int) record, fn func(record) error) error {
	var second *S
	for i, tag := range tags(first) {
		if !holds(tag) {
			continue
		}
		if second == nil {
			second = new(S)
			if err := m.Lookup(index, second); err != nil {
				return fmt.Errorf("read %s: %w", m, err)
			}
		}
		r := at(second, i)
		if tags(second)[i] != tag || r.identity() != at(first, i).identity() {
			continue // the next pass finds it
		}
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// identity is the part of a record that does not change.
func (r record) identity() record {
	r.lastSeen, r.expect, r.state = 0, 0, 0
	return r
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// table is one family's flows. It reads and writes the sets in place, while no program runs.
type table struct {
	memory *ebpf.Memory
	v6     bool
}

// The sizes of a set and of its parts.
const (
	waysSize    = int(unsafe.Sizeof(bpf.FlowWays{}))
	record4Size = int(unsafe.Sizeof(bpf.Flow4{}))
	record6Size = int(unsafe.Sizeof(bpf.Flow6{}))
)

func newTable(m *ebpf.Map) (table, error) {
	memory, err := m.Memory()
	return table{memory, m.ValueSize() == uint32(unsafe.Sizeof(bpf.FlowSet6{}))}, err
}

func (t table) recordSize() int {
	if t.v6 {
		return record6Size
	}
	return record4Size
}

func (t table) setSize() int { return waysSize + int(bpf.Ways)*t.recordSize() }

// place is the offsets of a record and its tag.
type place struct{ tag, record int }

func (t table) read(at, size int) []byte {
	b := make([]byte, size)
	_, err := t.memory.ReadAt(b, int64(at))
	must(err)
	return b
}

func (t table) write(at int, b []byte) {
	_, err := t.memory.WriteAt(b, int64(at))
	must(err)
}

func (t table) writeTag(p place, tag uint32) {
	t.write(p.tag, binary.NativeEndian.AppendUint32(nil, tag))
}

// forgetDatagrams makes the table one that has had no flows of datagrams.
func (t table) forgetDatagrams() {
	t.write(int(unsafe.Offsetof(bpf.FlowWays{}.Datagrams)), make([]byte, 4))
}

// sets calls fn with the offset and the tags of each set that was ever used.
func (t table) sets(fn func(at int, ways []byte)) {
	for at := 0; at+t.setSize() <= int(t.memory.Size()); at += t.setSize() {
		if ways := t.read(at, waysSize); [waysSize]byte(ways) != ([waysSize]byte{}) {
			fn(at, ways)
		}
	}
}

// each calls fn with each way that is not free.
func (t table) each(fn func(tag uint32, p place)) {
	t.sets(func(at int, ways []byte) {
		for i := range int(bpf.Ways) {
			if tag := binary.NativeEndian.Uint32(ways[4*i:]); tag&bpf.WayMask != bpf.WayFree {
				fn(tag, place{at + 4*i, at + waysSize + i*t.recordSize()})
			}
		}
	})
}

// contents returns all records that are found by their keys, with their places.
func (t table) contents() (records []record, places []place) {
	t.each(func(tag uint32, p place) {
		if tag&bpf.WayMask == bpf.WayLive {
			records = append(records, decodeRecord(tag, t.read(p.record, t.recordSize())))
			places = append(places, p)
		}
	})
	return records, places
}

// confirmed is the number of confirmed records of each set.
func (t table) confirmed() map[int]int {
	counts := map[int]int{}
	records, places := t.contents()
	for i, r := range records {
		if r.isConfirmed() {
			counts[places[i].tag/t.setSize()]++
		}
	}
	return counts
}

func (t table) find(k tuple) (record, place, bool) {
	records, places := t.contents()
	for i, r := range records {
		if r.key == k {
			return r, places[i], true
		}
	}
	return record{}, place{}, false
}

var errNoRecord = errors.New("there is no such record")

// replace changes a record, and its state, in place.
func (t table) replace(r record) error {
	_, p, ok := t.find(r.key)
	if !ok {
		return errNoRecord
	}
	t.write(p.record, r.encode())
	t.writeTag(p, r.tag)
	return nil
}

// remove does what a release does. The table is so large that no record has gone to another set
// than its first, which would have to be counted there.
func (t table) remove(k tuple) error {
	r, p, ok := t.find(k)
	if !ok {
		return errNoRecord
	}
	if r.tag&bpf.TagChoiceMask != 0 {
		return fmt.Errorf("the record of %v is not in its first set", k)
	}
	t.writeTag(p, r.tag&bpf.TagVersionMask)
	return nil
}

// empty removes all records, with what they have counted: a program adds that up when it gives their places away.
func (t table) empty() {
	t.sets(func(at int, _ []byte) { t.write(at, make([]byte, t.setSize())) })
}

// settled checks that no record is being made, and that all sets together count as many records as
// have passed a set on the way to a later choice.
func (t table) settled() error {
	passed, counted := 0, 0
	var errs []error
	t.sets(func(at int, ways []byte) {
		counted += int(int32(binary.NativeEndian.Uint32(ways[unsafe.Offsetof(bpf.FlowWays{}.Spilled):])))
	})
	t.each(func(tag uint32, p place) {
		passed += int(tag & bpf.TagChoiceMask / bpf.TagChoice)
		if tag&bpf.WayMask != bpf.WayLive {
			errs = append(errs, fmt.Errorf("the record of the tag at %d is in state %d", p.tag, tag&bpf.WayMask))
		}
	})
	if passed != counted {
		errs = append(errs, fmt.Errorf("records passed %d sets, of which %d are counted", passed, counted))
	}
	return errors.Join(errs...)
}

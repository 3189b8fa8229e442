// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// recordTable holds flow records by their keys: `flows`, a hash, or `flows_new`, which the datapath
// keeps in sets.
type recordTable interface {
	lookup(key []byte) (value []byte, err error) // nil: there is none
	replace(key, value []byte) error
	remove(key []byte) error
	contents() (keys, values [][]byte, err error)
}

type hashTable struct{ *ebpf.Map }

func (t hashTable) lookup(key []byte) ([]byte, error)            { return t.LookupBytes(key) }
func (t hashTable) replace(key, value []byte) error              { return t.Put(key, value) }
func (t hashTable) remove(key []byte) error                      { return t.Delete(key) }
func (t hashTable) contents() (keys, values [][]byte, err error) { return contents(t.Map) }

// setTable reads and writes the sets in place, while no program runs.
type setTable struct {
	memory   *ebpf.Memory
	set, key int // sizes
}

func newSetTable(m *ebpf.Map) (setTable, error) {
	memory, err := m.Memory()
	key := binary.Size(bpf.FlowKey4{})
	if m.ValueSize() == uint32(binary.Size(bpf.FlowSet6{})) {
		key = binary.Size(bpf.FlowKey6{})
	}
	return setTable{memory, int(m.ValueSize()), key}, err
}

const waysSize = 64 // the tags and what goes with them

// eachTag calls fn with each tag that is not free, and the offsets of it and of its record, until it
// returns false.
func (t setTable) eachTag(fn func(tag uint32, tagAt, recordAt int64) bool) error {
	record := (t.set - waysSize) / int(bpf.Ways)
	for at := 0; at < int(t.memory.Size())/t.set*t.set; at += t.set {
		var tags [4 * bpf.Ways]byte
		if _, err := t.memory.ReadAt(tags[:], int64(at)); err != nil {
			return err
		}
		if tags == ([len(tags)]byte{}) {
			continue
		}
		for i := range int(bpf.Ways) {
			tag := binary.NativeEndian.Uint32(tags[4*i:])
			if tag != 0 && !fn(tag, int64(at+4*i), int64(at+waysSize+i*record)) {
				return nil
			}
		}
	}
	return nil
}

// each calls fn with the offset of each record's tag and of the record, until it returns false.
func (t setTable) each(fn func(tag, record int64) bool) error {
	return t.eachTag(func(tag uint32, tagAt, recordAt int64) bool {
		return !bpf.WayHolds(tag) || fn(tagAt, recordAt)
	})
}

// idle: nobody is writing a record.
func (t setTable) idle() error {
	var busy error
	err := t.eachTag(func(tag uint32, tagAt, _ int64) bool {
		if !bpf.WayHolds(tag) {
			busy = fmt.Errorf("the record of the tag at %d is being written", tagAt)
		}
		return busy == nil
	})
	return errors.Join(err, busy)
}

func (t setTable) read(at int64, size int) []byte {
	b := make([]byte, size)
	_, err := t.memory.ReadAt(b, at)
	must(err)
	return b
}

// find gives offsets, of 0 if there is no such record.
func (t setTable) find(key []byte) (tag, record int64, err error) {
	err = t.each(func(tagAt, recordAt int64) bool {
		if bytes.Equal(t.read(recordAt, t.key), key) {
			tag, record = tagAt, recordAt
		}
		return record == 0
	})
	return tag, record, err
}

func (t setTable) valueSize() int { return (t.set-waysSize)/int(bpf.Ways) - t.key }

func (t setTable) lookup(key []byte) ([]byte, error) {
	_, record, err := t.find(key)
	if err != nil || record == 0 {
		return nil, err
	}
	return t.read(record+int64(t.key), t.valueSize()), nil
}

func (t setTable) replace(key, value []byte) error {
	_, record, err := t.find(key)
	if err != nil || record == 0 {
		return errors.Join(err, fmt.Errorf("no record of % x: %w", key, ebpf.ErrKeyNotExist))
	}
	_, err = t.memory.WriteAt(value, record+int64(t.key))
	return err
}

func (t setTable) remove(key []byte) error {
	tag, record, err := t.find(key)
	if err != nil || record == 0 {
		return errors.Join(err, ebpf.ErrKeyNotExist)
	}
	_, err = t.memory.WriteAt(make([]byte, 4), tag)
	return err
}

func (t setTable) contents() (keys, values [][]byte, err error) {
	err = t.each(func(_, record int64) bool {
		keys = append(keys, t.read(record, t.key))
		values = append(values, t.read(record+int64(t.key), t.valueSize()))
		return true
	})
	return keys, values, err
}

func (t setTable) empty() error {
	var tags []int64
	err := t.each(func(tag, _ int64) bool {
		tags = append(tags, tag)
		return true
	})
	for _, at := range tags {
		_, failed := t.memory.WriteAt(make([]byte, 4), at)
		err = errors.Join(err, failed)
	}
	return err
}

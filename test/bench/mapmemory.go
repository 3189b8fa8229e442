// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// mapMemory is the memory of a map, as the kernel counts it (memlock in its fdinfo).
type mapMemory struct {
	Map          string  `json:"map"`
	Type         string  `json:"type"`
	Entries      uint32  `json:"max_entries"`
	Preallocated bool    `json:"preallocated"`
	Element      float64 `json:"bytes_per_element"`
	Allocated    float64 `json:"allocated_per_element"` // with the rounding of the kernel's allocator
	// In bytes, without elements and with all.
	Empty float64 `json:"empty"`
	Full  float64 `json:"full"`
}

// filled is how many elements are put into a map that grows, to measure its growth.
const filled = 4096

// memoryOfMaps measures the datapath's maps in their default sizes.
func memoryOfMaps() (rows []mapMemory, err error) {
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Maps)) {
		if name[0] == '.' {
			continue // the programs' variables
		}
		row, err := memoryOfMap(spec.Maps[name])
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		row.Map = name
		rows = append(rows, row)
	}
	return rows, nil
}

func memoryOfMap(spec *ebpf.MapSpec) (row mapMemory, err error) {
	spec.Pinning = ebpf.PinNone
	m, err := ebpf.NewMap(spec)
	if err != nil {
		return row, err
	}
	defer m.Close()
	row = mapMemory{Type: m.Type().String(), Entries: m.MaxEntries(),
		Preallocated: spec.Flags&unix.BPF_F_NO_PREALLOC == 0 && spec.Type != ebpf.DevMapHash}
	if row.Empty, err = memlock(m); err != nil {
		return row, err
	}
	if row.Preallocated && row.Empty == 0 {
		return row, errors.New("the kernel does not report its memory")
	}
	switch {
	case spec.Type == ebpf.SkStorage: // an element belongs to its socket: the map does not count it
		row.Element = float64(spec.ValueSize)
		row.Allocated, row.Full = row.Element, row.Empty
		return row, nil
	case row.Preallocated:
		row.Element = row.Empty / float64(row.Entries)
	default:
		count := min(filled, row.Entries)
		if err := fillMap(m, count); err != nil {
			return row, err
		}
		now, err := memlock(m)
		if err != nil {
			return row, err
		}
		row.Element = (now - row.Empty) / float64(count)
	}
	row.Full, row.Allocated = row.Empty, row.Element
	if !row.Preallocated {
		row.Allocated = allocated(row.Element)
		row.Full += float64(row.Entries) * row.Allocated
	}
	return row, nil
}

// memlock returns the memory of a map in bytes. A trie without elements has none.
func memlock(m *ebpf.Map) (float64, error) {
	info, err := m.Info()
	if err != nil {
		return 0, err
	}
	size, _ := info.Memlock()
	return float64(size), nil
}

// allocated is the size of the slab that holds an element of a map that grows, up to a page. Maps
// don't count the unused rest of it.
func allocated(size float64) float64 {
	for _, slab := range []float64{8, 16, 32, 64, 96, 128, 192, 256, 512, 1024, 2048} {
		if size <= slab {
			return slab
		}
	}
	return 4096
}

// fillMap puts elements into a map of any kind. Their content has no meaning.
func fillMap(m *ebpf.Map, count uint32) error {
	key, value := make([]byte, m.KeySize()), make([]byte, m.ValueSize())
	value[0] = 1 // in a map of devices: loopback
	number := key
	if m.Type() == ebpf.LPMTrie { // the key begins with the length of its prefix
		binary.NativeEndian.PutUint32(key, 8*(m.KeySize()-4))
		number = key[4:]
	}
	for i := range count {
		binary.NativeEndian.PutUint32(number, i)
		if err := m.Put(key, value); err != nil {
			return err
		}
	}
	return nil
}

func printMaps(out io.Writer, rows []mapMemory) {
	fmt.Fprintf(out, "\n### Scale: the maps, in the sizes that they have by default\n\n")
	w := tabwriter.NewWriter(out, 0, 8, 1, ' ', 0)
	fmt.Fprintln(w, "| map\t| type\t| max_entries\t| bytes an element\t| allocated\t| pre-allocated\t| MB empty\t| MB full\t|")
	fmt.Fprintln(w, "| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t| ---\t|")
	empty, full := 0.0, 0.0
	for _, r := range rows {
		grows := "yes"
		if !r.Preallocated {
			grows = "no, grows"
		}
		fmt.Fprintf(w, "| %s\t| %s\t| %d\t| %s\t| %s\t| %s\t| %s\t| %s\t|\n",
			r.Map, r.Type, r.Entries, figure(r.Element), figure(r.Allocated), grows, figure(r.Empty/1e6), figure(r.Full/1e6))
		empty, full = empty+r.Empty, full+r.Full
	}
	fmt.Fprintf(w, "| all\t| \t| \t| \t| \t| \t| %s\t| %s\t|\n", figure(empty/1e6), figure(full/1e6))
	w.Flush()
}

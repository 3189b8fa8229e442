// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
)

// firstLayout is the layout of maps that were made by agents without layout versions.
const firstLayout = 1

// layout is how a pinned map's elements are laid out, and what they mean: its version, and what to
// do with a map of the version before. TestLayouts notices a layout that changes without a new
// version.
type layout struct {
	version uint32
	change  change
}

// change says how a map of the layout before becomes one of this layout.
type change int

const (
	// unchanged: the map stays. Its elements have got further meanings, and the agent writes all
	// elements before it attaches a program that reads more of them.
	unchanged change = iota
	// anew: the map is a cache. A new one replaces it.
	anew
	// addressesLocal: the map stays, and the agent rewrites its elements. See addressesAreLocal.
	addressesLocal
	// flowsConverted: a new map is made. The old one stays for as long as programs use it, and the
	// agent converts its records. See OldFlows.
	flowsConverted
)

// layouts are those of maps that no longer have the first layout.
var layouts = map[string]layout{
	"counters":    {2, anew},           // verdicts have other numbers
	"devices":     {2, unchanged},      // more flags
	"flows4":      {2, flowsConverted}, // one table of sets; before, a hash and a cache of sets
	"flows6":      {2, flowsConverted},
	"fragments":   {2, anew}, // the key has the zone in place of the direction
	"node_addrs4": {2, addressesLocal},
	"node_addrs6": {2, addressesLocal},
	"runtime":     {2, unchanged}, // former padding counts changes of neighbours
}

func layoutOf(name string) layout {
	if l, ok := layouts[name]; ok {
		return l
	}
	return layout{version: firstLayout}
}

// check refuses layouts that can't be converted.
func (l layout) check(path string, version uint32) error {
	switch {
	case version == l.version, version+1 == l.version:
		return nil
	case version < l.version:
		return fmt.Errorf("the pinned map %s has layout %d, and this version of waggle converts layout %d: "+
			"nothing was changed; upgrade by way of the release between, "+
			"or run `waggle cleanup` and start this one, which breaks established connections", path, version, l.version-1)
	}
	return fmt.Errorf("the pinned map %s has layout %d, of a later version of waggle, and this one knows layout %d: "+
		"nothing was changed; start the later version again, "+
		"or run its `waggle cleanup` and start this one, which breaks established connections", path, version, l.version)
}

// layoutsPin is a map of the agent's own: the layouts of all pinned maps, by their ids. The kernel
// uses no id twice, so a map that another agent has pinned under a known name is not taken for ours.
const layoutsPin = "layouts"

// maxLayouts is more than the number of maps of two releases.
const maxLayouts = 256

// layoutTable is that map. m is nil where all maps have the first layout.
type layoutTable struct{ m *ebpf.Map }

func (p pinDir) openLayouts(opts *ebpf.LoadPinOptions) (layoutTable, error) {
	path := p.mapPin(layoutsPin)
	m, err := ebpf.LoadPinnedMap(path, opts)
	if errors.Is(err, os.ErrNotExist) {
		return layoutTable{}, nil
	}
	if err != nil {
		return layoutTable{}, fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	if m.Type() != ebpf.Hash || m.KeySize() != 4 || m.ValueSize() != 4 {
		return layoutTable{}, errors.Join(fmt.Errorf("the pinned map %s is not one of waggle's", path), m.Close())
	}
	return layoutTable{m}, nil
}

// makeLayouts opens the table, and makes it if there is none.
func (p pinDir) makeLayouts(have layoutTable) (layoutTable, error) {
	if have.m != nil {
		return have, nil
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{
		Name: layoutsPin, Type: ebpf.Hash, KeySize: 4, ValueSize: 4, MaxEntries: maxLayouts,
	})
	if err != nil {
		return layoutTable{}, fmt.Errorf("make the map %s: %w", layoutsPin, err)
	}
	if err := replacePin(m, p.mapPin(layoutsPin)); err != nil {
		return layoutTable{}, errors.Join(err, m.Close())
	}
	return layoutTable{m}, nil
}

// of returns a map's version.
func (l layoutTable) of(m *ebpf.Map) (version uint32, err error) {
	if l.m == nil {
		return firstLayout, nil
	}
	id, err := mapID(m)
	if err != nil {
		return 0, err
	}
	err = l.m.Lookup(uint32(id), &version)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return firstLayout, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the map %s: %w", layoutsPin, err)
	}
	return version, nil
}

func (l layoutTable) set(m *ebpf.Map, version uint32) error {
	id, err := mapID(m)
	if err != nil {
		return err
	}
	if err := l.m.Put(uint32(id), version); err != nil {
		return fmt.Errorf("write the map %s: %w", layoutsPin, err)
	}
	return nil
}

// prune removes the maps that are not among these from the table.
func (l layoutTable) prune(maps ...*ebpf.Map) error {
	known := map[uint32]bool{}
	for _, m := range maps {
		id, err := mapID(m)
		if err != nil {
			return err
		}
		known[uint32(id)] = true
	}
	var id, version uint32
	var gone []uint32
	it := l.m.Iterate()
	for it.Next(&id, &version) {
		if !known[id] {
			gone = append(gone, id)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("read the map %s: %w", layoutsPin, err)
	}
	for _, id := range gone {
		if err := l.m.Delete(id); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return fmt.Errorf("write the map %s: %w", layoutsPin, err)
		}
	}
	return nil
}

func (l layoutTable) close() {
	if l.m != nil {
		l.m.Close()
	}
}

func mapID(m *ebpf.Map) (ebpf.MapID, error) {
	info, err := m.Info()
	if err != nil {
		return 0, fmt.Errorf("ask for the id of a map: %w", err)
	}
	id, _ := info.ID() // Linux 4.13
	return id, nil
}

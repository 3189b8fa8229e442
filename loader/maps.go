// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/sirupsen/logrus"

	"github.com/waggle-lb/waggle/bpf"
)

// resizable: whether the programs work with any number of elements.
func resizable(spec *ebpf.MapSpec) bool {
	return spec.Type != ebpf.PerCPUArray && spec.MaxEntries > 1
}

// resizeMaps applies Options.MapSizes.
func resizeMaps(spec *ebpf.CollectionSpec, sizes map[string]uint32) error {
	for name, size := range sizes {
		m, ok := spec.Maps[name]
		if !ok {
			return fmt.Errorf("size of map %s: there is no such map", name)
		}
		if !resizable(m) {
			return fmt.Errorf("size of map %s: it cannot be changed", name)
		}
		if size == 0 {
			return fmt.Errorf("size of map %s: 0 is too small", name)
		}
		m.MaxEntries = size
		if isFlowTable(name) {
			m.MaxEntries = bpf.SetsForFlows(size)
		}
	}
	return nil
}

// isFlowTable: the size of the map is told in flows; its elements are sets of records.
func isFlowTable(name string) bool { return name == "flows4" || name == "flows6" }

// sizeOf says how large a map is, in what its size is told in.
func sizeOf(name string, elements uint32) uint32 {
	if isFlowTable(name) {
		return bpf.FlowsOfSets(elements)
	}
	return elements
}

// takePinning lists the maps to be pinned, and keeps the library from doing so: it would pin new
// maps before it is known that the programs can be loaded.
func takePinning(spec *ebpf.CollectionSpec) []string {
	var names []string
	for name, m := range spec.Maps {
		if m.Pinning == ebpf.PinByName {
			names = append(names, name)
			m.Pinning = ebpf.PinNone
		}
	}
	slices.Sort(names)
	return names
}

// openMaps opens those of the maps that are pinned, and adapts their specs to them.
func (p pinDir) openMaps(spec *ebpf.CollectionSpec, names []string, log *logrus.Entry) (map[string]*ebpf.Map, error) {
	pinned := make(map[string]*ebpf.Map)
	for _, name := range names {
		m, err := p.openMap(spec.Maps[name], name, log)
		if err != nil {
			closeMaps(pinned)
			return nil, err
		}
		if m != nil {
			pinned[name] = m
		}
	}
	return pinned, nil
}

// openMap returns the pinned map, or nil if a new one is to be made.
func (p pinDir) openMap(spec *ebpf.MapSpec, name string, log *logrus.Entry) (*ebpf.Map, error) {
	path := p.mapPin(name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	if wanted := spec.MaxEntries; resizable(spec) && m.MaxEntries() != wanted {
		log.Warnf("map %s keeps its %d entries instead of the %d wanted, because what it holds must survive; "+
			"to change it: stop the agent, run `waggle cleanup`, start it again", name,
			sizeOf(name, m.MaxEntries()), sizeOf(name, wanted))
		spec.MaxEntries = m.MaxEntries()
	}
	err = spec.Compatible(m)
	if err == nil {
		return m, nil
	}
	m.Close()
	if spec.Type == ebpf.PerCPUArray { // counters, which nothing depends on
		log.Infof("map %s begins anew: %v", name, err)
		return nil, nil
	}
	return nil, fmt.Errorf("the pinned map %s is of another version of waggle (%w): "+
		"stop the agent, run `waggle cleanup`, start it again; established connections break", path, err)
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

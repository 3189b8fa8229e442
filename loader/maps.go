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

// ofFixedSize are maps whose number of elements the programs know.
var ofFixedSize = []string{"call_buffers", "directs", "watch_meters", "watch_slots", "watchers"}

// resizable: whether the programs work with any number of elements.
func resizable(spec *ebpf.MapSpec) bool {
	return spec.Type != ebpf.PerCPUArray && spec.MaxEntries > 1 && !slices.Contains(ofFixedSize, spec.Name)
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

// isFlowTable reports whether a map's size is given in flows: its elements are sets of records.
func isFlowTable(name string) bool { return name == "flows4" || name == "flows6" }

// sizeOf returns a map's size in the unit of Options.MapSizes.
func sizeOf(name string, elements uint32) uint32 {
	if isFlowTable(name) {
		return bpf.FlowsOfSets(elements)
	}
	return elements
}

// takePinning lists the maps to be pinned, and keeps the library from pinning them: it would pin
// new maps before it is known that the programs can be loaded.
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

// foundMaps are the pinned maps that an agent finds when it starts, by the maps' names.
type foundMaps struct {
	pinned map[string]*ebpf.Map // those that stay
	old    map[string]*ebpf.Map // those with flows to be converted
}

func (f foundMaps) close() {
	closeMaps(f.pinned)
	closeMaps(f.old)
}

// openMaps opens the pinned maps among these, and adapts their specs to them. It changes nothing,
// so an agent that can't continue from there leaves all as it is.
func (p pinDir) openMaps(spec *ebpf.CollectionSpec, names []string, layouts layoutTable, log *logrus.Entry) (foundMaps, error) {
	found := foundMaps{map[string]*ebpf.Map{}, map[string]*ebpf.Map{}}
	for _, name := range names {
		if err := p.openMap(spec.Maps[name], name, layouts, found, log); err != nil {
			found.close()
			return foundMaps{}, err
		}
	}
	if err := p.openOldFlows(found.old); err != nil {
		found.close()
		return foundMaps{}, err
	}
	return found, nil
}

// openMap opens the pinned map, if there is one and it is not to be replaced.
func (p pinDir) openMap(spec *ebpf.MapSpec, name string, layouts layoutTable, found foundMaps, log *logrus.Entry) error {
	path := p.mapPin(name)
	m, err := ebpf.LoadPinnedMap(path, nil)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pinned map %s: %w", path, err)
	}
	version, err := layouts.of(m)
	if err == nil {
		err = layoutOf(name).check(path, version)
	}
	if err != nil {
		return errors.Join(err, m.Close())
	}
	if change := layoutOf(name).change; version < layoutOf(name).version && change == flowsConverted {
		found.old[name] = m
		return nil
	} else if version < layoutOf(name).version && change == anew {
		log.Infof("map %s starts empty: its layout has changed", name)
		return m.Close()
	}
	if wanted := spec.MaxEntries; resizable(spec) && m.MaxEntries() != wanted {
		log.Warnf("map %s keeps its %d entries instead of the %d wanted, because what it holds must survive; "+
			"to change it: stop the agent, run `waggle cleanup`, start it again", name,
			sizeOf(name, m.MaxEntries()), sizeOf(name, wanted))
		spec.MaxEntries = m.MaxEntries()
	}
	err = spec.Compatible(m)
	if err != nil && layoutOf(name).change == anew { // of a version between two releases
		log.Infof("map %s starts empty: %v", name, err)
		return m.Close()
	}
	if err != nil {
		return errors.Join(fmt.Errorf("no version of waggle that this one knows made the pinned map %s (%w): nothing was changed; "+
			"stop the agent, run `waggle cleanup`, start it again; established connections break", path, err), m.Close())
	}
	found.pinned[name] = m
	return nil
}

func closeMaps(maps map[string]*ebpf.Map) {
	for _, m := range maps {
		m.Close()
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"flag"
	"fmt"
	"maps"
	"strings"
	"sync"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
)

// Maps are small, so that making them costs nothing.
const mapSize = 256

// setting changes the datapath before it is loaded.
type setting struct {
	name  string // unique to the change: datapaths are reused by it
	apply func(*ebpf.CollectionSpec) error
	late  bool // after Fit, which would set it by the processor
}

// applyAll applies the settings that are late, or those that are not.
func applyAll(spec *ebpf.CollectionSpec, settings []setting, late bool) error {
	for _, s := range settings {
		if s.late != late {
			continue
		}
		if err := s.apply(spec); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	return nil
}

// weaklyOrdered has the programs do what they do on processors that show stores and loads in another order, on any.
var weaklyOrdered = setting{name: "weakly ordered", late: true, apply: func(spec *ebpf.CollectionSpec) error {
	return spec.Variables["weakly_ordered"].Set(true)
}}

func variable(name string, value any) setting {
	return setting{name: fmt.Sprintf("%s=%v", name, value), apply: func(spec *ebpf.CollectionSpec) error {
		return spec.Variables[name].Set(value)
	}}
}

// flowSets sets the number of sets of the flow tables.
func flowSets(n uint32) setting {
	return setting{name: fmt.Sprintf("flows:%d", n), apply: func(spec *ebpf.CollectionSpec) error {
		spec.Maps["flows4"].MaxEntries, spec.Maps["flows6"].MaxEntries = n, n
		return nil
	}}
}

// datapath is a set of maps and the programs over it. The verifier takes time
// over each program, so the next test with the same settings reuses an emptied
// datapath.
type datapath struct {
	settings string
	spec     *ebpf.CollectionSpec
	maps     map[string]*ebpf.Map
	tables   map[string]table // flows4 and flows6
	directs  directs
	programs map[string]*ebpf.Program
	twin     *loader.Twin
}

// unused are the datapaths that no test uses at the moment.
var unused struct {
	sync.Mutex
	list []*datapath
}

func borrow(settings []setting) (*datapath, error) {
	var names []string
	for _, s := range settings {
		names = append(names, s.name)
	}
	key := strings.Join(names, " ")
	unused.Lock()
	defer unused.Unlock()
	for i, d := range unused.list {
		if d.settings == key {
			unused.list = append(unused.list[:i], unused.list[i+1:]...)
			return d, d.empty()
		}
	}
	return newDatapath(key, settings)
}

func (d *datapath) giveBack() {
	unused.Lock()
	defer unused.Unlock()
	unused.list = append(unused.list, d)
}

var object = flag.String("object", "", "test the datapath in this file, not the committed one (make mutations)")

func compiled() (*ebpf.CollectionSpec, error) {
	if *object == "" {
		return bpf.Spec()
	}
	spec, err := ebpf.LoadCollectionSpec(*object)
	if err == nil {
		bpf.DropOptional(spec)
	}
	return spec, err
}

func newDatapath(key string, settings []setting) (*datapath, error) {
	spec, err := compiled()
	if err != nil {
		return nil, err
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if m.Name != "counters" && m.Name != "directs" { // the programs know their lengths
			m.MaxEntries = min(m.MaxEntries, mapSize)
		}
	}
	if err := applyAll(spec, settings, false); err != nil {
		return nil, err
	}
	if err := bpf.Fit(spec); err != nil {
		return nil, err
	}
	if err := applyAll(spec, settings, true); err != nil {
		return nil, err
	}
	onlyMaps := spec.Copy()
	clear(onlyMaps.Programs)
	coll, err := ebpf.NewCollection(onlyMaps)
	if err != nil {
		return nil, err
	}
	d := &datapath{settings: key, spec: spec, maps: coll.Maps, tables: make(map[string]table), programs: make(map[string]*ebpf.Program)}
	for _, name := range []string{"flows4", "flows6"} {
		if d.tables[name], err = newTable(d.maps[name]); err != nil {
			return nil, err
		}
	}
	d.directs.memory, err = d.maps["directs"].Memory()
	return d, err
}

// load loads a program at its first use: a test needs one or two.
func (d *datapath) load(name string) (*ebpf.Program, error) {
	if p := d.programs[name]; p != nil {
		return p, nil
	}
	spec := d.spec.Copy()
	maps.DeleteFunc(spec.Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: d.maps})
	if err != nil {
		return nil, err
	}
	d.programs[name] = coll.Programs[name]
	return d.programs[name], nil
}

// empty deletes the content of the hash maps, of the flow tables and of
// nexthops. The other arrays need no deletion: only services and a node's
// configuration refer to their elements.
func (d *datapath) empty() error {
	d.emptyFlows()
	for name, m := range d.maps {
		switch m.Type() {
		case ebpf.Hash, ebpf.LRUHash, ebpf.DevMapHash, ebpf.LPMTrie:
			if err := emptyMap(m); err != nil {
				return fmt.Errorf("empty %s: %w", name, err)
			}
		}
	}
	return nil
}

func (d *datapath) emptyFlows() {
	for _, t := range d.tables {
		t.empty()
	}
	d.directs.empty()
	hops := d.maps["nexthops"]
	for i := range hops.MaxEntries() {
		must(hops.Put(i, bpf.Nexthop{}))
	}
}

func emptyMap(m *ebpf.Map) error {
	for {
		key, err := m.NextKeyBytes(nil)
		if key == nil || err != nil {
			return err
		}
		if err := m.Delete(key); err != nil {
			return err
		}
	}
}

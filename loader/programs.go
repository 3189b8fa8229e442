// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sync/errgroup"

	"github.com/waggle-lb/waggle/bpf"
)

// optional are the programs that the datapath can work without.
var optional = []string{bpf.AbortProgram, bpf.ShowProgram4, bpf.ShowProgram6}

// onDemand are the programs that are loaded with the first device that runs them. Most nodes have no device
// for some of these, and the verifier would take a fifth of an agent's start for them.
var onDemand = []string{xdpProgram, "waggle_ingress_l3", "waggle_egress_l3"}

// podProgram is loaded on demand, too, if the node has no pod yet: see Options.PodsLater.
const podProgram = "waggle_pod"

// convertProgram is loaded where there are flows to be converted.
const convertProgram = "waggle_convert"

// wantedAtStart are the programs that Load loads. Where a release before has left flows, these are all programs that
// packets run through: no program may be refused after the first one has been exchanged.
func wantedAtStart(spec *ebpf.CollectionSpec, converts, podsLater bool) []string {
	return slices.DeleteFunc(slices.Collect(maps.Keys(spec.Programs)), func(name string) bool {
		switch name {
		case bpf.ShowProgram4, bpf.ShowProgram6, bpf.ExplainProgram:
			return true
		}
		return !converts && (name == convertProgram || slices.Contains(onDemand, name) || podsLater && name == podProgram)
	})
}

// makeMaps makes the maps of a spec that do not exist yet. It makes the named ones at the same time: they have 150
// MB in all, which the kernel clears.
func makeMaps(spec *ebpf.CollectionSpec, names []string, have map[string]*ebpf.Map, types *btf.Cache) (*ebpf.Collection, error) {
	made := map[string]*ebpf.Map{}
	defer func() { closeMaps(made) }() // the collection has clones
	var mu sync.Mutex
	var group errgroup.Group
	for _, name := range names {
		if have[name] != nil {
			continue
		}
		group.Go(func() error {
			m, err := ebpf.NewMap(spec.Maps[name])
			if err != nil {
				return fmt.Errorf("map %s: %w", name, err)
			}
			mu.Lock()
			defer mu.Unlock()
			made[name] = m
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	all := maps.Clone(made)
	maps.Copy(all, have)
	return newMaps(spec, all, types)
}

// newMaps makes the maps of a spec that do not exist yet.
func newMaps(spec *ebpf.CollectionSpec, replacements map[string]*ebpf.Map, types *btf.Cache) (*ebpf.Collection, error) {
	onlyMaps := *spec
	onlyMaps.Programs = nil
	return ebpf.NewCollectionWithOptions(&onlyMaps, ebpf.CollectionOptions{MapReplacements: replacements, Cache: types})
}

// loadPrograms loads programs of a spec over existing maps, and returns the reasons for those that are refused. The
// verifier takes most of an agent's start, and works on each program alone, so all processors are used.
func loadPrograms(spec *ebpf.CollectionSpec, names []string, made map[string]*ebpf.Map, types *btf.Cache) (loaded map[string]*ebpf.Program, refused map[string]error) {
	loaded, refused = map[string]*ebpf.Program{}, map[string]error{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range largestFirst(spec, names) {
		group.Go(func() error {
			program, err := newProgram(spec, name, made, types)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				refused[name] = err
				return nil
			}
			loaded[name] = program
			return nil
		})
	}
	_ = group.Wait() // never fails
	return loaded, refused
}

// largestFirst orders programs by size, so that no slow one begins last.
func largestFirst(spec *ebpf.CollectionSpec, names []string) []string {
	size := func(name string) int { return len(spec.Programs[name].Instructions) }
	return slices.SortedFunc(slices.Values(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(a, b))
	})
}

// newProgram loads one program of a spec, over existing maps.
func newProgram(spec *ebpf.CollectionSpec, name string, made map[string]*ebpf.Map, types *btf.Cache) (*ebpf.Program, error) {
	program := spec.Programs[name]
	one := &ebpf.CollectionSpec{
		Maps: map[string]*ebpf.MapSpec{}, Programs: map[string]*ebpf.ProgramSpec{name: program},
		Types: spec.Types, ByteOrder: spec.ByteOrder,
	}
	replacements := map[string]*ebpf.Map{}
	for i := range program.Instructions {
		ins := &program.Instructions[i]
		if used := ins.Reference(); ins.IsLoadFromMap() && made[used] != nil {
			one.Maps[used], replacements[used] = spec.Maps[used], made[used]
		}
	}
	coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: replacements, Cache: types})
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	return coll.DetachProgram(name), nil
}

// loadMore loads further programs over the maps of the datapath, with its constants, and returns the reasons for
// those that are refused.
func (d *Datapath) loadMore(names []string) (loaded map[string]*ebpf.Program, refused map[string]error, err error) {
	p, err := d.parts()
	if err != nil {
		return nil, nil, err
	}
	loaded, refused = loadPrograms(p.spec, names, d.collection.Maps, p.types)
	return loaded, refused, nil
}

// refusal joins the reasons to refuse programs, in the order of their names.
func refusal(refused map[string]error) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		errs = append(errs, fmt.Errorf("load the program %s: %w", name, refused[name]))
	}
	return errors.Join(errs...)
}

// LoadRest loads what Load has put off: the files in the pin directory that show flows, if the kernel permits them;
// and with Options.PodsLater the program of pods' devices, so that the first pod need not wait for the verifier. The
// error says why the kernel refuses that program.
func (d *Datapath) LoadRest() error {
	loaded, refused, err := d.loadMore(append(d.missing(podProgram), bpf.ShowProgram4, bpf.ShowProgram6))
	if err != nil {
		return err
	}
	extra := takeOptional(loaded, refused)
	defer extra.close()
	d.mu.Lock() // not before: devices are attached meanwhile
	defer d.mu.Unlock()
	if err := d.pinShown(extra); err != nil {
		d.log.Warn(err)
	}
	if len(refused) > 0 {
		return refusal(refused)
	}
	if len(loaded) > 0 && d.Program(podProgram) != nil { // a device has loaded it meanwhile
		closeAll(loaded)
		return nil
	}
	return d.add(loaded)
}

// missing returns those of the programs that are not loaded.
func (d *Datapath) missing(names ...string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(name string) bool { return d.Program(name) != nil })
}

// need loads and pins those of the programs that are not loaded yet. The caller holds d.mu.
func (d *Datapath) need(names ...string) error {
	missing := d.missing(names...)
	if len(missing) == 0 {
		return nil
	}
	loaded, refused, err := d.loadMore(missing)
	if err != nil {
		return err
	}
	if len(refused) > 0 {
		closeAll(loaded)
		return refusal(refused)
	}
	return d.add(loaded)
}

// add pins programs that were loaded later, and keeps them. The caller holds d.mu.
func (d *Datapath) add(loaded map[string]*ebpf.Program) error {
	if len(loaded) == 0 {
		return nil
	}
	if err := d.pinPrograms(loaded); err != nil {
		closeAll(loaded)
		return err
	}
	d.log.WithField("programs", slices.Sorted(maps.Keys(loaded))).Debug("programs loaded")
	d.programs.Lock()
	defer d.programs.Unlock()
	maps.Copy(d.collection.Programs, loaded)
	d.names = nil
	return nil
}

func closeAll(programs map[string]*ebpf.Program) {
	for _, program := range programs {
		program.Close()
	}
}

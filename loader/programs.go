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

// optional are the programs that the datapath can do without.
var optional = []string{bpf.AbortProgram, bpf.ShowProgram4, bpf.ShowProgram6}

// onDemand are the programs that are loaded with the first device that runs them. Most nodes have no device
// for some of these, and the verifier would take a fifth of an agent's start for them.
var onDemand = []string{xdpProgram, "waggle_ingress_l3", "waggle_egress_l3"}

// convertProgram is loaded where there are flows to be converted.
const convertProgram = "waggle_convert"

// wantedAtStart are the programs that Load loads. Where a release before has left flows, they are all: none may
// be refused after the first has been exchanged.
func wantedAtStart(spec *ebpf.CollectionSpec, converts bool) []string {
	return slices.DeleteFunc(slices.Collect(maps.Keys(spec.Programs)), func(name string) bool {
		return name == bpf.ExplainProgram || !converts && (name == convertProgram || slices.Contains(onDemand, name))
	})
}

// newMaps makes the maps of a spec, but for those that are there already.
func newMaps(spec *ebpf.CollectionSpec, replacements map[string]*ebpf.Map, types *btf.Cache) (*ebpf.Collection, error) {
	onlyMaps := *spec
	onlyMaps.Programs = nil
	return ebpf.NewCollectionWithOptions(&onlyMaps, ebpf.CollectionOptions{MapReplacements: replacements, Cache: types})
}

// loadPrograms loads programs of a spec, over maps that are there, and says why others are refused. The
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
	_ = group.Wait() // fails never
	return loaded, refused
}

// largestFirst orders programs such that none is begun last that takes long.
func largestFirst(spec *ebpf.CollectionSpec, names []string) []string {
	size := func(name string) int { return len(spec.Programs[name].Instructions) }
	return slices.SortedFunc(slices.Values(names), func(a, b string) int {
		return cmp.Or(cmp.Compare(size(b), size(a)), cmp.Compare(a, b))
	})
}

// newProgram loads one program of a spec, over maps that are there.
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

// loadMore loads further programs over the maps of the datapath, and with them its constants: all or none.
func (d *Datapath) loadMore(names []string) (map[string]*ebpf.Program, error) {
	spec, err := d.compiled()
	if err != nil {
		return nil, err
	}
	for name, m := range d.collection.Maps {
		if resizable(spec.Maps[name]) {
			spec.Maps[name].MaxEntries = m.MaxEntries()
		}
	}
	takePinning(spec)
	loaded, refused := loadPrograms(spec, names, d.collection.Maps, btf.NewCache())
	if len(refused) > 0 {
		closeAll(loaded)
		return nil, refusal(refused)
	}
	return loaded, nil
}

// refusal says why the kernel refuses programs, in the order of their names.
func refusal(refused map[string]error) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(refused)) {
		errs = append(errs, fmt.Errorf("load the program %s: %w", name, refused[name]))
	}
	return errors.Join(errs...)
}

// need loads and pins those of the programs that are not loaded yet. The caller holds d.mu.
func (d *Datapath) need(names ...string) error {
	missing := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return d.Program(name) != nil })
	if len(missing) == 0 {
		return nil
	}
	loaded, err := d.loadMore(missing)
	if err != nil {
		return err
	}
	if err := d.pinPrograms(loaded); err != nil {
		closeAll(loaded)
		return err
	}
	d.log.WithField("programs", missing).Debug("programs loaded")
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

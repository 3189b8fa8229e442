// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sync/errgroup"
)

// newCollection makes the maps of a spec, but for those that are there already, and loads its
// programs. The verifier takes most of an agent's start, and works on each program alone, so all
// processors are used.
func newCollection(spec *ebpf.CollectionSpec, replacements map[string]*ebpf.Map, types *btf.Cache) (*ebpf.Collection, error) {
	onlyMaps := *spec
	onlyMaps.Programs = nil
	coll, err := ebpf.NewCollectionWithOptions(&onlyMaps, ebpf.CollectionOptions{MapReplacements: replacements, Cache: types})
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, name := range largestFirst(spec.Programs) {
		group.Go(func() error {
			program, err := newProgram(spec, name, coll.Maps, types)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			coll.Programs[name] = program
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		coll.Close()
		return nil, err
	}
	return coll, nil
}

// largestFirst orders programs such that none is begun last that takes long.
func largestFirst(programs map[string]*ebpf.ProgramSpec) []string {
	return slices.SortedFunc(maps.Keys(programs), func(a, b string) int {
		return cmp.Or(cmp.Compare(len(programs[b].Instructions), len(programs[a].Instructions)), cmp.Compare(a, b))
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

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"

	"github.com/waggle-lb/waggle/bpf"
)

// optional are the programs that the datapath can do without, to be loaded over its maps.
type optional struct {
	spec   *ebpf.CollectionSpec
	shared map[string]*ebpf.Map
	types  *btf.Cache
}

func newOptional(shared map[string]*ebpf.Map, types *btf.Cache) (*optional, error) {
	spec, err := bpf.OptionalSpec(bpf.AbortProgram, bpf.ShowProgram4, bpf.ShowProgram6)
	if err != nil {
		return nil, err
	}
	for name, m := range shared {
		if used := spec.Maps[name]; used != nil && resizable(used) {
			used.MaxEntries = m.MaxEntries()
		}
	}
	takePinning(spec)
	return &optional{spec, shared, types}, nil
}

// load loads one of the programs.
func (o *optional) load(name string) (*ebpf.Program, error) {
	return newProgram(o.spec, name, o.shared, o.types)
}

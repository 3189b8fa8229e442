// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// loadOptional loads programs that the datapath can do without, over its maps.
func loadOptional(shared map[string]*ebpf.Map, names ...string) (*ebpf.Collection, error) {
	spec, err := bpf.OptionalSpec(names...)
	if err != nil {
		return nil, err
	}
	replacements := map[string]*ebpf.Map{}
	for name, m := range shared {
		if used := spec.Maps[name]; used != nil && resizable(used) {
			used.MaxEntries = m.MaxEntries()
		}
		replacements[name] = m
	}
	takePinning(spec)
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: replacements})
}

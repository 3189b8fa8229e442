// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Those who only look read the arrays by system calls: the kernel maps the memory of a map only
// through a descriptor that may write.

// batch is how many elements one system call reads.
const batch = 4096

// ReadBackends reads every backend in use.
func ReadBackends(p Provider) (map[uint32]Backend, error) {
	out := map[uint32]Backend{}
	var cursor ebpf.MapBatchCursor
	ids, backends := make([]uint32, batch), make([]bpf.Backend, batch)
	for {
		n, err := p.Map("backends").BatchLookup(&cursor, ids, backends, nil)
		for i := range n {
			if backends[i].Service != 0 {
				out[ids[i]] = decodeBackend(&backends[i])
			}
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return out, nil // that was all
		}
		if err != nil {
			return nil, fmt.Errorf("reading the map backends: %w", err)
		}
	}
}

// ReadSlots returns the backend ids in a block.
func ReadSlots(p Provider, block Block) ([]uint32, error) {
	ids := make([]uint32, block.Count)
	for i := range ids {
		if err := p.Map("slots").Lookup(block.First+uint32(i), &ids[i]); err != nil {
			return nil, fmt.Errorf("reading slot %d: %w", block.First+uint32(i), err)
		}
	}
	return ids, nil
}

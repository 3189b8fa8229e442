// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"iter"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Read-only users read the arrays by system calls: the kernel maps the memory of a map only through
// a descriptor that may write.

// batch is how many elements one system call reads.
const batch = 4096

// ReadBackends reads every backend in use.
func ReadBackends(p Provider) (map[uint32]Backend, error) {
	out := map[uint32]Backend{}
	err := each(p.Map("backends"), "backends", func(id uint32, c *bpf.Backend) {
		if c.Service != 0 {
			out[id] = decodeBackend(c)
		}
	})
	return out, err
}

// each calls fn with every element of a hash or an array, many of which it reads at a time.
func each[K, V any](m *ebpf.Map, name string, fn func(K, *V)) error {
	var cursor ebpf.MapBatchCursor
	size := min(batch, m.MaxEntries())
	keys, values := make([]K, size), make([]V, size)
	for {
		n, err := m.BatchLookup(&cursor, keys, values, nil)
		for i := range n {
			fn(keys[i], &values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil // the end
		}
		if err != nil {
			return fmt.Errorf("reading the map %s: %w", name, err)
		}
	}
}

// few is how many elements one system call reads where other callers wait in between.
const few = 256

// keys returns the keys of a hash, which it reads some at a time. The hash may change meanwhile: a
// key may be gone by the time it is yielded, and a new key may be missing. An error comes last,
// with no key.
func keys[K, V any](m *ebpf.Map, name string) iter.Seq2[K, error] {
	return func(yield func(K, error) bool) {
		for e, err := range elements[K, V](m, name) {
			if !yield(e.key, err) {
				return
			}
		}
	}
}

// values returns the values of a hash or an array, read as keys does. Each is valid until the next
// one.
func values[K, V any](m *ebpf.Map, name string) iter.Seq2[*V, error] {
	return func(yield func(*V, error) bool) {
		for e, err := range elements[K, V](m, name) {
			if !yield(e.value, err) {
				return
			}
		}
	}
}

type element[K, V any] struct {
	key   K
	value *V
}

func elements[K, V any](m *ebpf.Map, name string) iter.Seq2[element[K, V], error] {
	return func(yield func(element[K, V], error) bool) {
		var cursor ebpf.MapBatchCursor
		size := min(few, m.MaxEntries())
		keys, values := make([]K, size), make([]V, size)
		for {
			n, err := m.BatchLookup(&cursor, keys, values, nil)
			for i := range n {
				if !yield(element[K, V]{keys[i], &values[i]}, nil) {
					return
				}
			}
			if errors.Is(err, ebpf.ErrKeyNotExist) {
				return // the end
			}
			if err != nil {
				yield(element[K, V]{}, fmt.Errorf("reading the map %s: %w", name, err))
				return
			}
		}
	}
}

// ReadSlots returns the backend ids in a block.
func ReadSlots(p Provider, block Block) ([]uint32, error) {
	if last := uint64(block.First) + uint64(block.Count); last > uint64(p.Map("slots").MaxEntries()) {
		return nil, fmt.Errorf("%d slots from %d on are not within the table of %d", block.Count, block.First, p.Map("slots").MaxEntries())
	}
	ids := make([]uint32, block.Count)
	for i := range ids {
		if err := p.Map("slots").Lookup(block.First+uint32(i), &ids[i]); err != nil {
			return nil, fmt.Errorf("reading slot %d: %w", block.First+uint32(i), err)
		}
	}
	return ids, nil
}

// ReadBackend reads one backend. ok reports whether the element is in use.
func ReadBackend(p Provider, id uint32) (b Backend, ok bool, err error) {
	var c bpf.Backend
	err = p.Map("backends").Lookup(id, &c)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return Backend{}, false, nil
	}
	if err != nil {
		return Backend{}, false, fmt.Errorf("reading backend %d: %w", id, err)
	}
	return decodeBackend(&c), c.Service != 0, nil
}

// ReadName reads the name of one service. It returns the zero Name if the service has none.
func ReadName(p Provider, id uint32) (Name, error) {
	var c bpf.ServiceName
	ok, err := (&Names{m: p.Map("service_names")}).read(id, &c)
	if err != nil || !ok {
		return Name{}, err
	}
	return decodeName(&c), nil
}

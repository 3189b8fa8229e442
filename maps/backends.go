// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"net/netip"
	"time"
	"unsafe"

	"github.com/waggle-lb/waggle/bpf"
)

// Backend is an element of the backends array.
type Backend struct {
	Addr    netip.Addr
	Port    uint16
	Proto   uint8 // IPPROTO_*
	Service uint32
	Local   bool
	// The sets of its service that it is in.
	InCluster, InLocal bool
	Kept               bool // in no set any more, but its endpoint still serves its flows
}

// Serving reports whether new flows may go to the backend: it is in some set.
func (b Backend) Serving() bool { return b.InCluster || b.InLocal }

const backendSize = int(unsafe.Sizeof(bpf.Backend{}))

// Backends is the array of backends, by id. Element 0 is never used.
type Backends struct {
	memory *memory
	ids    *IDs
	grace  grace[uint32]
	stats  *Stats
	looked []bpf.Backend // of Strays, kept for its memory
}

// NewBackends opens the array. It takes all of it as free: see Reserve.
func NewBackends(p Provider) (*Backends, error) {
	m := p.Map("backends")
	memory, err := mapHead(m, backendSize)
	if err != nil {
		return nil, fmt.Errorf("mapping the backends array: %w", err)
	}
	return &Backends{memory: memory, ids: NewIDs("backend", m.MaxEntries()-1), stats: NewStats(p)}, nil
}

// Add writes a new backend and returns its id.
func (b *Backends) Add(backend Backend, now time.Time) (uint32, error) {
	b.Collect(now)
	id, err := b.ids.Alloc(now)
	if err != nil {
		return 0, err
	}
	err = b.stats.AddBackend(id, backend.Service)
	if err == nil {
		err = b.Write(id, backend)
	}
	if err != nil {
		b.ids.Free(id, now)
		return 0, err
	}
	return id, nil
}

// Write replaces a backend in place: its flags may change while it is in use.
func (b *Backends) Write(id uint32, backend Backend) error {
	c := backend.encode()
	return b.write(id, &c)
}

func (b *Backends) write(id uint32, c *bpf.Backend) error {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(c)), backendSize)
	beforeWrite()
	if err := b.memory.write(raw, int(id)*backendSize); err != nil {
		return fmt.Errorf("writing backend %d: %w", id, err)
	}
	return nil
}

// Remove takes a backend out of service at once and frees its id after a grace period.
func (b *Backends) Remove(id uint32, backend Backend, now time.Time) error {
	backend.InCluster, backend.InLocal, backend.Kept = false, false, false
	b.grace.add(id, now)
	return b.Write(id, backend)
}

// Collect clears removed backends whose grace period is over.
func (b *Backends) Collect(now time.Time) {
	for _, id := range b.grace.expired(now) {
		_ = b.write(id, &bpf.Backend{})
		_ = b.stats.DropBackend(id) // else it is made anew with the id's next backend
		b.ids.Free(id, now)
	}
}

// Clear empties an element that is not in use.
func (b *Backends) Clear(id uint32) error { return b.write(id, &bpf.Backend{}) }

// Holds reports whether an element has exactly the bytes that Write would leave.
func (b *Backends) Holds(id uint32, backend Backend) (bool, error) {
	var have bpf.Backend
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&have)), backendSize)
	if err := b.memory.read(raw, int(id)*backendSize); err != nil {
		return false, fmt.Errorf("reading backend %d: %w", id, err)
	}
	return have == backend.encode(), nil
}

// Strays looks at some elements, from one on. It returns those that are not empty although they are
// neither in use nor resting after their removal. next is where to go on; 0 after the last.
func (b *Backends) Strays(from uint32) (strays []uint32, next uint32, err error) {
	if b.looked == nil {
		b.looked = make([]bpf.Backend, 1024)
	}
	buf := b.looked[:min(uint32(len(b.looked)), b.ids.max+1-from)]
	if err := b.readRaw(from, buf); err != nil {
		return nil, 0, err
	}
	for i := range buf {
		id := from + uint32(i)
		if buf[i] != (bpf.Backend{}) && !b.ids.Has(id) {
			strays = append(strays, id)
		}
	}
	if next = from + uint32(len(buf)); next > b.ids.max {
		next = 0
	}
	return strays, next, nil
}

// eachRaw reads all elements, some at a time: the array is large, and mostly empty.
func (b *Backends) eachRaw(fn func(id uint32, c *bpf.Backend)) error {
	elements := int(b.ids.max) + 1
	buf := make([]bpf.Backend, min(batch, elements))
	for first := 0; first < elements; first += len(buf) {
		some := buf[:min(len(buf), elements-first)]
		if err := b.readRaw(uint32(first), some); err != nil {
			return err
		}
		for i := range some {
			fn(uint32(first+i), &some[i])
		}
	}
	return nil
}

func (b *Backends) readRaw(first uint32, into []bpf.Backend) error {
	raw := unsafe.Slice((*byte)(unsafe.Pointer(&into[0])), len(into)*backendSize)
	if err := b.memory.read(raw, int(first)*backendSize); err != nil {
		return fmt.Errorf("reading the backends array: %w", err)
	}
	return nil
}

// Reserve takes an id that was in use at start.
func (b *Backends) Reserve(id uint32) error { return b.ids.Reserve(id) }

// InUse counts the backends.
func (b *Backends) InUse() int { return b.ids.InUse() }

// All reads every backend in use.
func (b *Backends) All() (map[uint32]Backend, error) {
	out := map[uint32]Backend{}
	err := b.eachRaw(func(id uint32, c *bpf.Backend) {
		if id != 0 && c.Service != 0 {
			out[id] = decodeBackend(c)
		}
	})
	return out, err
}

func (b Backend) encode() bpf.Backend {
	c := bpf.Backend{
		Addr:    wordsOf(b.Addr),
		Service: b.Service,
		Port:    netPort(b.Port),
		Proto:   b.Proto,
	}
	if FamilyOf(b.Addr) == IPv6 {
		c.Flags |= bpf.BackendIPv6
	}
	if b.Local {
		c.Flags |= bpf.BackendLocal
	}
	if b.InCluster {
		c.Flags |= bpf.BackendInClusterSet
	}
	if b.InLocal {
		c.Flags |= bpf.BackendInLocalSet
	}
	if b.Kept {
		c.Flags |= bpf.BackendKept
	}
	return c
}

func decodeBackend(c *bpf.Backend) Backend {
	b := Backend{
		Port:      netPort(c.Port),
		Proto:     c.Proto,
		Service:   c.Service,
		Local:     c.Flags&bpf.BackendLocal != 0,
		InCluster: c.Flags&bpf.BackendInClusterSet != 0,
		InLocal:   c.Flags&bpf.BackendInLocalSet != 0,
		Kept:      c.Flags&bpf.BackendKept != 0,
	}
	if c.Flags&bpf.BackendIPv6 != 0 {
		b.Addr = addr6(c.Addr)
	} else {
		b.Addr = addr4(c.Addr[0])
	}
	return b
}

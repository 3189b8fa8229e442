// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// slotStride is the distance of two elements in the mapped array, in bytes. The kernel pads them.
const slotStride = 8

// Slots is the array of backend ids. It is written as plain memory. Nothing reads a block before a
// service refers to it, and the system call that writes the service orders the writes.
type Slots struct {
	memory *memory
	blocks *blocks
	wait   func() error // until no program runs that ran at the call
}

// NewSlots opens the array. It takes all of it as free: see Reserve.
func NewSlots(p Provider) (*Slots, error) {
	m := p.Map("slots")
	memory, err := mapHead(m, slotStride)
	if err != nil {
		return nil, fmt.Errorf("mapping the slots array: %w", err)
	}
	return &Slots{memory: memory, blocks: newBlocks(m.MaxEntries()), wait: new(quiescence).wait}, nil
}

// Publish takes a fresh block and writes backend ids to it.
func (s *Slots) Publish(ids []uint32, now time.Time) (Block, error) {
	if len(ids) == 0 {
		return Block{}, nil
	}
	block, err := s.alloc(uint32(len(ids)), now)
	if err != nil {
		return Block{}, err
	}
	if err := s.Write(block, ids); err != nil {
		s.blocks.release(block)
		return Block{}, err
	}
	return block, nil
}

// alloc takes a block. Large services that change often may have all the room rest. Then alloc does
// not wait for the grace period, but for the programs that may still read the blocks.
func (s *Slots) alloc(count uint32, now time.Time) (Block, error) {
	block, err := s.blocks.alloc(count, now)
	if err == nil || !s.blocks.resting() {
		return block, err
	}
	if failed := s.wait(); failed != nil {
		return Block{}, errors.Join(err, failed)
	}
	s.blocks.releaseResting()
	return s.blocks.alloc(count, now)
}

// Write replaces the backend ids in a block. Packets may be reading a published block: they see
// each slot before or after.
func (s *Slots) Write(block Block, ids []uint32) error {
	buf := make([]byte, slotStride*len(ids))
	for i, id := range ids {
		binary.NativeEndian.PutUint32(buf[slotStride*i:], id)
	}
	beforeWrite()
	if err := s.memory.write(buf, int(block.First)*slotStride); err != nil {
		return fmt.Errorf("writing slots %d-%d: %w", block.First, block.First+block.Count-1, err)
	}
	return nil
}

// Read returns the backend ids in a block.
func (s *Slots) Read(block Block) ([]uint32, error) {
	buf := make([]byte, slotStride*block.Count)
	if err := s.memory.read(buf, int(block.First)*slotStride); err != nil {
		return nil, fmt.Errorf("reading slots %d-%d: %w", block.First, block.First+block.Count-1, err)
	}
	ids := make([]uint32, block.Count)
	for i := range ids {
		ids[i] = binary.NativeEndian.Uint32(buf[slotStride*i:])
	}
	return ids, nil
}

// Reserve takes a block that a service refers to at start.
func (s *Slots) Reserve(block Block) error {
	if block.Count == 0 {
		return nil
	}
	return s.blocks.reserve(block)
}

// Free frees a block after a grace period.
func (s *Slots) Free(block Block, now time.Time) {
	if block.Count > 0 {
		s.blocks.giveBack(block, now)
	}
}

// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"math/bits"
	"time"
)

// Block is a contiguous run of slots.
type Block struct {
	First, Count uint32
}

// blocks is a buddy allocator. A block takes a power of two of slots, aligned to its size, so freed
// neighbours always merge, and frequent changes do not fragment the table.
type blocks struct {
	size  uint32
	free  []map[uint32]bool // by order: where free runs of 1<<order slots begin
	grace grace[Block]
}

func newBlocks(size uint32) *blocks {
	orders := bits.Len32(size)
	b := &blocks{size: size, free: make([]map[uint32]bool, orders)}
	for i := range b.free {
		b.free[i] = map[uint32]bool{}
	}
	for at := uint32(0); at < size; {
		order := min(bits.Len32(size-at)-1, orders-1)
		b.free[order][at] = true
		at += 1 << order
	}
	return b
}

func orderOf(count uint32) int {
	if count <= 1 {
		return 0
	}
	return bits.Len32(count - 1)
}

// alloc takes a block of count slots.
func (b *blocks) alloc(count uint32, now time.Time) (Block, error) {
	for _, old := range b.grace.expired(now) {
		b.release(old)
	}
	want := orderOf(count)
	for order := want; order < len(b.free); order++ {
		for at := range b.free[order] {
			delete(b.free[order], at)
			b.split(at, order, want)
			return Block{at, count}, nil
		}
	}
	return Block{}, fmt.Errorf("no %d contiguous slots are free of %d", count, b.size)
}

// split frees the upper halves of a run until its lower part has the wanted order.
func (b *blocks) split(at uint32, order, want int) {
	for order > want {
		order--
		b.free[order][at+1<<order] = true
	}
}

// reserve takes a particular block, found in the maps at the start.
func (b *blocks) reserve(block Block) error {
	want := orderOf(block.Count)
	for order := want; order < len(b.free); order++ {
		at := block.First &^ (1<<order - 1)
		if order == want && at != block.First {
			break // no block of ours begins here
		}
		if !b.free[order][at] {
			continue
		}
		delete(b.free[order], at)
		for order > want {
			order--
			half := at + 1<<order
			if block.First >= half {
				b.free[order][at] = true
				at = half
			} else {
				b.free[order][half] = true
			}
		}
		return nil
	}
	return fmt.Errorf("%d slots from %d on are taken twice, misplaced, or outside the table of %d",
		block.Count, block.First, b.size)
}

// giveBack frees a block after the grace period, when no packet can still be reading it.
func (b *blocks) giveBack(block Block, now time.Time) { b.grace.add(block, now) }

// resting reports whether blocks were given back that are not free yet.
func (b *blocks) resting() bool { return len(b.grace.items) > 0 }

// releaseResting frees all blocks that were given back. The caller has waited for all programs that
// ran before.
func (b *blocks) releaseResting() {
	for _, item := range b.grace.items {
		b.release(item.value)
	}
	b.grace.items = nil
}

func (b *blocks) release(block Block) {
	at, order := block.First, orderOf(block.Count)
	for ; order < len(b.free)-1; order++ {
		buddy := at ^ 1<<order
		if !b.free[order][buddy] {
			break
		}
		delete(b.free[order], buddy)
		at = min(at, buddy)
	}
	b.free[order][at] = true
}

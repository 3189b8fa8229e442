// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"time"
)

// IDs hands out numbers from 1 to max. A number that was given back rests for a grace period,
// so that a packet which read it a moment ago does not find somebody else's element.
type IDs struct {
	what  string
	max   uint32
	next  uint32
	taken map[uint32]bool // true: in use; false: given back, and resting
	grace grace[uint32]
	free  []uint32 // given back; some may have been reserved since
}

// NewIDs makes an allocator of ids up to max; what names them in errors.
func NewIDs(what string, max uint32) *IDs {
	return &IDs{what: what, max: max, next: 1, taken: map[uint32]bool{}}
}

// Reserve marks an id, found in a map at start, as in use.
func (a *IDs) Reserve(id uint32) error {
	if id == 0 || id > a.max {
		return fmt.Errorf("%s id %d is not within 1-%d", a.what, id, a.max)
	}
	for ; a.next <= id; a.next++ {
		if a.next != id {
			a.free = append(a.free, a.next)
		}
	}
	a.taken[id] = true
	return nil
}

// Alloc takes an id.
func (a *IDs) Alloc(now time.Time) (uint32, error) {
	for _, id := range a.grace.expired(now) {
		delete(a.taken, id)
		a.free = append(a.free, id)
	}
	for len(a.free) > 0 {
		id := a.free[0]
		a.free = a.free[1:]
		if _, taken := a.taken[id]; !taken {
			a.taken[id] = true
			return id, nil
		}
	}
	if a.next > a.max {
		return 0, fmt.Errorf("out of %s ids: all %d are in use", a.what, a.max)
	}
	id := a.next
	a.next++
	a.taken[id] = true
	return id, nil
}

// Free gives an id back.
func (a *IDs) Free(id uint32, now time.Time) {
	if !a.taken[id] {
		return
	}
	a.taken[id] = false
	a.grace.add(id, now)
}

// InUse counts the ids that are in use.
func (a *IDs) InUse() int { return len(a.taken) - len(a.grace.items) }

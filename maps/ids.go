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
	used  map[uint32]bool
	grace grace[uint32]
	free  []uint32
}

// NewIDs makes an allocator of ids up to max; what names them in errors.
func NewIDs(what string, max uint32) *IDs {
	return &IDs{what: what, max: max, next: 1, used: map[uint32]bool{}}
}

// Reserve marks an id, found in a map at start, as taken.
func (a *IDs) Reserve(id uint32) {
	for ; a.next <= id; a.next++ {
		if a.next != id && !a.used[a.next] {
			a.free = append(a.free, a.next)
		}
	}
	a.used[id] = true
}

// Alloc takes an id.
func (a *IDs) Alloc(now time.Time) (uint32, error) {
	a.free = append(a.free, a.grace.expired(now)...)
	for len(a.free) > 0 {
		id := a.free[0]
		a.free = a.free[1:]
		if !a.used[id] {
			a.used[id] = true
			return id, nil
		}
	}
	if a.next > a.max {
		return 0, fmt.Errorf("out of %s ids: all %d are in use", a.what, a.max)
	}
	id := a.next
	a.next++
	a.used[id] = true
	return id, nil
}

// Free gives an id back.
func (a *IDs) Free(id uint32, now time.Time) {
	if !a.used[id] {
		return
	}
	delete(a.used, id)
	a.grace.add(id, now)
}

// InUse counts the ids that are taken.
func (a *IDs) InUse() int { return len(a.used) }

// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"time"
)

// IDs hands out numbers from 1 to max. A number that was given back rests for a grace period, so
// that a packet which read it a moment ago does not find the element of another owner.
type IDs struct {
	what  string
	max   uint32
	state []idState // by id, for those that were ever given out
	inUse int
	grace grace[uint32]
	free  []uint32 // given back; some may be reserved again
}

type idState uint8

const (
	idFree idState = iota
	idInUse
	idResting // given back
)

// NewIDs makes an allocator of ids up to max. what is their name in errors.
func NewIDs(what string, max uint32) *IDs {
	return &IDs{what: what, max: max, state: make([]idState, 1)}
}

// Reserve marks an id as in use that was found in a map at the start.
func (a *IDs) Reserve(id uint32) error {
	if id == 0 || id > a.max {
		return fmt.Errorf("%s id %d is not within 1-%d", a.what, id, a.max)
	}
	for next := uint32(len(a.state)); next <= id; next++ {
		a.state = append(a.state, idFree)
		if next != id {
			a.free = append(a.free, next)
		}
	}
	a.take(id)
	return nil
}

func (a *IDs) take(id uint32) uint32 {
	if a.state[id] != idInUse {
		a.inUse++
	}
	a.state[id] = idInUse
	return id
}

// Alloc takes an id.
func (a *IDs) Alloc(now time.Time) (uint32, error) {
	for _, id := range a.grace.expired(now) {
		if a.state[id] == idResting {
			a.state[id] = idFree
			a.free = append(a.free, id)
		}
	}
	for len(a.free) > 0 {
		id := a.free[0]
		a.free = a.free[1:]
		if a.state[id] == idFree {
			return a.take(id), nil
		}
	}
	next := uint32(len(a.state))
	if next > a.max {
		return 0, fmt.Errorf("out of %s ids: all %d are in use", a.what, a.max)
	}
	a.state = append(a.state, idFree)
	return a.take(next), nil
}

// Free gives an id back.
func (a *IDs) Free(id uint32, now time.Time) {
	if !a.Has(id) {
		return
	}
	a.state[id] = idResting
	a.inUse--
	a.grace.add(id, now)
}

// Has reports whether an id is in use.
func (a *IDs) Has(id uint32) bool { return id < uint32(len(a.state)) && a.state[id] == idInUse }

// InUse counts the ids that are in use.
func (a *IDs) InUse() int { return a.inUse }

// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// slotModel is a naive model of the buddy allocator: the owner of each slot, and since when a freed
// slot rests. A block owns its size rounded up, as in a buddy allocator.
type slotModel struct {
	t     *testing.T
	size  uint32
	owner []int // 0: free
	next  int
	live  map[int]Block
	rests map[int]time.Time
}

func newSlotModel(t *testing.T, size uint32) *slotModel {
	return &slotModel{t: t, size: size, owner: make([]int, size), live: map[int]Block{}, rests: map[int]time.Time{}}
}

// take checks that the slots that the allocator handed out are free, and were not in use a moment
// ago.
func (m *slotModel) take(b Block) {
	m.t.Helper()
	m.next++
	for at := b.First; at < b.First+1<<orderOf(b.Count); at++ {
		if at >= m.size {
			m.t.Fatalf("%v lies outside of %d slots", b, m.size)
		}
		if m.owner[at] != 0 {
			m.t.Fatalf("%v overlaps %v", b, m.live[m.owner[at]])
		}
		m.owner[at] = m.next
	}
	m.live[m.next] = b
}

// rested frees the slots whose grace period is over.
func (m *slotModel) rested(now time.Time) {
	for id, since := range m.rests {
		if now.Sub(since) < gracePeriod {
			continue
		}
		b := m.live[id]
		for at := b.First; at < b.First+1<<orderOf(b.Count); at++ {
			m.owner[at] = 0
		}
		delete(m.rests, id)
		delete(m.live, id)
	}
}

// anyLive returns a block that is in use.
func (m *slotModel) anyLive() (id int, ok bool) {
	for id := range m.live {
		if _, resting := m.rests[id]; !resting {
			return id, true
		}
	}
	return 0, false
}

// fits reports whether an aligned free run has the size that count needs.
func (m *slotModel) fits(count uint32) bool {
	step := uint32(1) << orderOf(count)
	for first := uint32(0); first+step <= m.size; first += step {
		if m.isFree(first, step) {
			return true
		}
	}
	return false
}

func (m *slotModel) isFree(first, count uint32) bool {
	for at := first; at < first+count; at++ {
		if at >= m.size || m.owner[at] != 0 {
			return false
		}
	}
	return true
}

// The sizes that are no powers of two have tails of smaller blocks.
func TestBlocksAgainstModel(t *testing.T) {
	for _, size := range []uint32{1, 7, 64, 100, 1000} {
		for seed := range uint64(4) {
			t.Run(fmt.Sprintf("%d slots, seed %d", size, seed), func(t *testing.T) {
				churnBlocks(t, size, rand.New(rand.NewPCG(seed, uint64(size))))
			})
		}
	}
}

func churnBlocks(t *testing.T, size uint32, random *rand.Rand) {
	b, m, now := newBlocks(size), newSlotModel(t, size), epoch
	for range 3000 {
		now = now.Add(time.Duration(random.IntN(100)) * time.Millisecond)
		switch random.IntN(3) {
		case 0, 1:
			count := 1 + random.Uint32N(max(size/4, 1))
			m.rested(now)
			got, err := b.alloc(count, now)
			if (err == nil) != m.fits(count) {
				t.Fatalf("alloc(%d): error %v, but there is room: %v", count, err, m.fits(count))
			}
			if err == nil {
				m.take(got)
			}
		case 2:
			if id, ok := m.anyLive(); ok {
				b.giveBack(m.live[id], now)
				m.rests[id] = now
			}
		}
	}
	for id, block := range m.live {
		if _, resting := m.rests[id]; !resting {
			b.giveBack(block, now)
		}
	}
	expectWhole(t, b, size, now)
}

// expectWhole checks that all blocks have merged again: the table is as it was at first.
func expectWhole(t *testing.T, b *blocks, size uint32, now time.Time) {
	t.Helper()
	for _, old := range b.grace.expired(now.Add(gracePeriod)) {
		b.release(old)
	}
	if got, want := fmt.Sprint(b.free), fmt.Sprint(newBlocks(size).free); got != want {
		t.Errorf("all is free, but in pieces: %s\nwant %s", got, want)
	}
}

// A restart: what one allocator handed out, another can reserve.
func TestBlocksReserve(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 1))
		size := 1 + random.Uint32N(500)
		before, after, m := newBlocks(size), newBlocks(size), newSlotModel(t, size)
		var given []Block
		for range 40 {
			if b, err := before.alloc(1+random.Uint32N(20), epoch); err == nil {
				given = append(given, b)
			}
		}
		random.Shuffle(len(given), func(i, j int) { given[i], given[j] = given[j], given[i] })
		for _, b := range given {
			if err := after.reserve(b); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			m.take(b)
			if after.reserve(b) == nil {
				t.Fatalf("seed %d: %v could be reserved twice", seed, b)
			}
		}
		for m.fits(1) {
			b, err := after.alloc(1, epoch)
			if err != nil {
				t.Fatalf("seed %d: %v, but there is room", seed, err)
			}
			m.take(b)
		}
		for _, b := range m.live {
			after.giveBack(b, epoch)
		}
		expectWhole(t, after, size, epoch)
	}
}

func TestBlocksRefuse(t *testing.T) {
	for name, block := range map[string]Block{
		"beyond the end":        {64, 1},
		"across the end":        {60, 8},
		"far beyond":            {1 << 31, 4},
		"larger than all":       {0, 65},
		"of an absurd size":     {0, 1<<32 - 1},
		"misplaced":             {3, 2},
		"misplaced by rounding": {4, 5},
	} {
		b := newBlocks(64)
		err := b.reserve(block)
		if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%d slots from %d on", block.Count, block.First)) {
			t.Errorf("%s: got error %v", name, err)
		}
		expectWhole(t, b, 64, epoch)
	}
}

func TestBlocksExhausted(t *testing.T) {
	b := newBlocks(16)
	for range 2 {
		if _, err := b.alloc(5, epoch); err != nil {
			t.Fatal(err)
		}
	}
	_, err := b.alloc(3, epoch)
	if want := "no 3 contiguous slots are free of 16"; err == nil || err.Error() != want {
		t.Errorf("got error %v, want %s", err, want)
	}
}

func TestBlocksGrace(t *testing.T) {
	b := newBlocks(8)
	block, err := b.alloc(8, epoch)
	if err != nil {
		t.Fatal(err)
	}
	b.giveBack(block, epoch)
	if _, err := b.alloc(1, epoch.Add(gracePeriod-1)); err == nil {
		t.Error("a slot was handed out that a packet may still be reading")
	}
	if _, err := b.alloc(8, epoch.Add(gracePeriod)); err != nil {
		t.Errorf("after the grace period: %v", err)
	}
}

// idModel is a naive model of the ids: which are in use, and until when others rest.
type idModel struct {
	used  map[uint32]bool
	rests map[uint32]time.Time
}

func (m *idModel) free(id uint32, now time.Time) bool {
	since, resting := m.rests[id]
	return !m.used[id] && (!resting || now.Sub(since) >= gracePeriod)
}

func (m *idModel) anyFree(limit uint32, now time.Time) bool {
	for id := uint32(1); id <= limit; id++ {
		if m.free(id, now) {
			return true
		}
	}
	return false
}

func TestIDsAgainstModel(t *testing.T) {
	for seed := range uint64(20) {
		random := rand.New(rand.NewPCG(seed, 2))
		limit := 1 + random.Uint32N(40)
		ids, now := NewIDs("test", limit), epoch
		m := &idModel{map[uint32]bool{}, map[uint32]time.Time{}}
		// A restart finds some in use, in no particular order.
		for _, i := range random.Perm(int(limit)) {
			if id := uint32(i + 1); random.IntN(2) == 0 {
				if err := ids.Reserve(id); err != nil {
					t.Fatal(err)
				}
				m.used[id] = true
			}
		}
		for range 2000 {
			now = now.Add(time.Duration(random.IntN(300)) * time.Millisecond)
			if random.IntN(2) == 0 {
				freeOne(ids, m, now)
			} else {
				allocOne(t, ids, m, limit, now)
			}
			if ids.InUse() != len(m.used) {
				t.Fatalf("seed %d: %d in use, want %d", seed, ids.InUse(), len(m.used))
			}
		}
	}
}

func freeOne(ids *IDs, m *idModel, now time.Time) {
	for id := range m.used {
		ids.Free(id, now)
		ids.Free(id, now) // a second time does no harm
		delete(m.used, id)
		m.rests[id] = now
		return
	}
}

func allocOne(t *testing.T, ids *IDs, m *idModel, limit uint32, now time.Time) {
	t.Helper()
	id, err := ids.Alloc(now)
	if err != nil {
		if want := fmt.Sprintf("out of test ids: all %d are in use", limit); err.Error() != want {
			t.Fatalf("got error %v, want %s", err, want)
		}
		if m.anyFree(limit, now) {
			t.Fatalf("%v, but not all are", err)
		}
		return
	}
	if id == 0 || id > limit || !m.free(id, now) {
		t.Fatalf("id %d of %d was handed out, though it is used (%v) or rests (since %v, now %v)",
			id, limit, m.used[id], m.rests[id], now)
	}
	m.used[id] = true
	delete(m.rests, id)
}

func TestIDsOutOfRange(t *testing.T) {
	ids := NewIDs("service", 10)
	for _, id := range []uint32{0, 11, 1<<32 - 1} {
		err := ids.Reserve(id)
		if want := fmt.Sprintf("service id %d is not within 1-10", id); err == nil || err.Error() != want {
			t.Errorf("got error %v, want %s", err, want)
		}
	}
	if ids.InUse() != 0 {
		t.Errorf("%d ids in use", ids.InUse())
	}
}

// A restart reserves ids in the order of a hash map. An id that was passed over at first must not
// be taken for free once it is given back: it rests like any other.
func TestIDsReservedRestToo(t *testing.T) {
	ids := NewIDs("test", 3)
	for _, id := range []uint32{3, 1, 2} {
		if err := ids.Reserve(id); err != nil {
			t.Fatal(err)
		}
	}
	ids.Free(1, epoch)
	if id, err := ids.Alloc(epoch); err == nil {
		t.Errorf("id %d was handed out without a rest", id)
	}
	if id, err := ids.Alloc(epoch.Add(gracePeriod)); id != 1 {
		t.Errorf("after the grace period: id %d, error %v", id, err)
	}
}

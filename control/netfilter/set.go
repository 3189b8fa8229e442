// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"slices"
	"sort"

	"github.com/google/nftables"
)

// set is a set or map of nf_tables.
type set struct {
	elements      []nftables.SetElement // sorted by key
	interval      bool                  // each element holds up to the next one's key
	concatenation bool
}

func newSet(about *nftables.Set, elements []nftables.SetElement) *set {
	slices.SortFunc(elements, func(a, b nftables.SetElement) int {
		if order := bytes.Compare(a.Key, b.Key); order != 0 || a.IntervalEnd == b.IntervalEnd {
			return order
		}
		if a.IntervalEnd { // one interval ends where the next begins
			return -1
		}
		return 1
	})
	return &set{elements: elements, interval: about.Interval, concatenation: about.Concatenation}
}

// find reports whether a value is in the set, and returns its element, or all elements if the value
// is not known.
func (s *set) find(v value) ([]nftables.SetElement, truth) {
	if len(s.elements) == 0 {
		return nil, no
	}
	size := len(s.elements[0].Key)
	if len(v) < size || s.concatenation {
		return s.elements, maybe
	}
	after := sort.Search(len(s.elements), func(i int) bool { return bytes.Compare(s.elements[i].Key, v[:size]) > 0 })
	if after == 0 {
		return nil, no
	}
	last := s.elements[after-1]
	if last.IntervalEnd || !s.interval && !bytes.Equal(last.Key, v[:size]) {
		return nil, no
	}
	return s.elements[after-1 : after], yes
}

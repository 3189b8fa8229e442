// SPDX-License-Identifier: Apache-2.0

package maps

import "net/netip"

// MaxPodRanges is the most ranges of each family.
const MaxPodRanges = MaxClusterRanges

// PodRanges are prefixes that hold all addresses to which routes lead by the devices of this node's pods. They may
// hold more.
type PodRanges struct {
	ranges guardedRanges
}

// NewPodRanges opens the map.
func NewPodRanges(p Provider) *PodRanges { return &PodRanges{guardedRanges{p, "pod_ranges"}} }

// Set replaces all ranges at once. Those of one family must not be more than MaxPodRanges.
func (r *PodRanges) Set(prefixes []netip.Prefix) error { return r.ranges.set(inUse(prefixes)) }

// Has reports whether the map has these ranges, as Set would write them.
func (r *PodRanges) Has(prefixes []netip.Prefix) (bool, error) { return r.ranges.has(inUse(prefixes)) }

// All reads the ranges.
func (r *PodRanges) All() (prefixes []netip.Prefix, err error) {
	ranges, err := r.ranges.all()
	for _, r := range ranges {
		prefixes = append(prefixes, r.Prefix)
	}
	return prefixes, err
}

func inUse(prefixes []netip.Prefix) []ClusterRange {
	ranges := make([]ClusterRange, 0, len(prefixes))
	for _, p := range prefixes {
		ranges = append(ranges, ClusterRange{Prefix: p})
	}
	return ranges
}

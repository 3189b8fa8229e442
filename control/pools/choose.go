// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"crypto/sha256"
	"encoding/binary"
	"maps"
	"math/bits"
	"net/netip"
	"slices"

	v1 "k8s.io/api/core/v1"
)

// maxProbe bounds how many addresses of a pool are tried: a /64 can't be searched.
const maxProbe = 1 << 20

// free finds an address of a pool that no Service has. It begins at a place that the name of the Service determines, so a
// new allocation from the same documents, or from a copy of them, gives the same addresses, except where two names
// have the same place.
func (p *planner) free(s *Service, pool *Pool, family v1.IPFamily) (netip.Addr, bool) {
	full := fullKey{pool, family}
	if p.full[full] {
		return netip.Addr{}, false
	}
	var total uint64
	for _, r := range pool.ranges {
		if familyOf(r.first) == family {
			sum, carry := bits.Add64(total, r.size(), 0)
			if total = sum; carry != 0 {
				total = ^uint64(0)
			}
		}
	}
	if total == 0 {
		return netip.Addr{}, false
	}
	sum := sha256.Sum256([]byte(s.Namespace + "/" + s.Name))
	offset := binary.BigEndian.Uint64(sum[:]) % total
	for range min(total, maxProbe) {
		a := pool.at(family, offset)
		if len(p.holders[a]) == 0 && !p.reserved[a] && pool.withholds(a) == "" {
			return a, true
		}
		if offset++; offset == total {
			offset = 0
		}
	}
	p.full[full] = true
	return netip.Addr{}, false
}

// fullKey is a pool in one family. That it is full holds until a Service gives an address up.
type fullKey struct {
	pool   *Pool
	family v1.IPFamily
}

// at is an address by its place among those of one family.
func (p *Pool) at(family v1.IPFamily, offset uint64) netip.Addr {
	for _, r := range p.ranges {
		if familyOf(r.first) != family {
			continue
		}
		if offset < r.size() {
			return r.at(offset)
		}
		offset -= r.size()
	}
	return netip.Addr{}
}

// shared finds an address of a pool that others have who share it with the Service: the lowest.
func (p *planner) shared(s *Service, pool *Pool, family v1.IPFamily) (netip.Addr, bool) {
	for _, key := range sharingKeys(s.Service) {
		for _, a := range slices.SortedFunc(maps.Keys(p.groups[key]), netip.Addr.Compare) {
			if familyOf(a) == family && pool.has(a) && pool.withholds(a) == "" && !p.reserved[a] && p.objects(s, a) == "" {
				return a, true
			}
		}
	}
	return netip.Addr{}, false
}

// objects names the Service that keeps another from having an address; empty: none does.
func (p *planner) objects(s *Service, a netip.Addr) string {
	for _, other := range p.holders[a] {
		if other == s {
			continue
		}
		if why := unshareable(s.Service, other.Service); why != "" {
			return "is in use by " + other.ref().String() + ": " + why
		}
	}
	return ""
}

// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"iter"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Sources are sets of client addresses. The set under a service's id has the clients that may use
// the service's load balancer addresses; the set under LocalSources has the cluster's own
// addresses.
type Sources struct {
	p Provider
}

// LocalSources is the id of the set of the cluster's own addresses. No service has this id.
const LocalSources = uint32(0)

// idBits is the length of the service's id, which comes before the address in a key's prefix.
const idBits = 32

// NewSources opens the sets.
func NewSources(p Provider) *Sources { return &Sources{p} }

// Put adds a prefix to a set.
func (s *Sources) Put(id uint32, prefix netip.Prefix) error {
	if err := putPick(s.p, "source_ranges", FamilyOf(prefix.Addr()), sourceKey(id, prefix), uint8(1)); err != nil {
		return fmt.Errorf("source range %s: %w", prefix, err)
	}
	return nil
}

// PutMissing adds a prefix to a set unless it is there. missing reports whether it was not.
func (s *Sources) PutMissing(r SourceRange) (missing bool, err error) {
	beforeWrite()
	err = pick(s.p, "source_ranges", FamilyOf(r.Prefix.Addr())).Update(sourceKey(r.ID, r.Prefix), uint8(1), ebpf.UpdateNoExist)
	if errors.Is(err, ebpf.ErrKeyExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("source range %s: %w", r.Prefix, err)
	}
	return true, nil
}

// Delete removes a prefix from a set. It returns no error for one that isn't there.
func (s *Sources) Delete(id uint32, prefix netip.Prefix) error {
	_, err := s.DeletePresent(SourceRange{id, prefix})
	return err
}

// DeletePresent removes a prefix from a set. present reports whether it was there.
func (s *Sources) DeletePresent(r SourceRange) (present bool, err error) {
	beforeWrite()
	err = pick(s.p, "source_ranges", FamilyOf(r.Prefix.Addr())).Delete(sourceKey(r.ID, r.Prefix))
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("source range %s: %w", r.Prefix, err)
	}
	return true, nil
}

// SourceRange is a prefix in the set with the id.
type SourceRange struct {
	ID     uint32
	Prefix netip.Prefix
}

// Ranges returns the prefixes of all sets. The maps may change meanwhile, as with keys.
func (s *Sources) Ranges() iter.Seq2[SourceRange, error] {
	return func(yield func(SourceRange, error) bool) {
		var one uint8
		var k4 bpf.SourceKey4
		it := s.p.Map("source_ranges4").Iterate()
		for it.Next(&k4, &one) {
			if !yield(SourceRange{k4.Service, netip.PrefixFrom(addr4(k4.Addr), int(k4.Prefixlen)-idBits)}, nil) {
				return
			}
		}
		if err := it.Err(); err != nil {
			yield(SourceRange{}, fmt.Errorf("reading the map source_ranges4: %w", err))
			return
		}
		var k6 bpf.SourceKey6
		it = s.p.Map("source_ranges6").Iterate()
		for it.Next(&k6, &one) {
			if !yield(SourceRange{k6.Service, netip.PrefixFrom(addr6(k6.Addr), int(k6.Prefixlen)-idBits)}, nil) {
				return
			}
		}
		if err := it.Err(); err != nil {
			yield(SourceRange{}, fmt.Errorf("reading the map source_ranges6: %w", err))
		}
	}
}

// All reads every set.
func (s *Sources) All() (map[uint32][]netip.Prefix, error) {
	out := map[uint32][]netip.Prefix{}
	for r, err := range s.Ranges() {
		if err != nil {
			return nil, err
		}
		out[r.ID] = append(out[r.ID], r.Prefix)
	}
	return out, nil
}

// Set makes a set hold exactly the wanted prefixes. It adds first, so that no client is missing
// meanwhile.
func (s *Sources) Set(id uint32, want []netip.Prefix) error {
	all, err := s.All()
	if err != nil {
		return err
	}
	stale := map[netip.Prefix]bool{}
	for _, p := range all[id] {
		stale[p] = true
	}
	for _, p := range want {
		delete(stale, p.Masked())
		if err := s.Put(id, p.Masked()); err != nil {
			return err
		}
	}
	for p := range stale {
		if err := s.Delete(id, p); err != nil {
			return err
		}
	}
	return nil
}

func sourceKey(id uint32, prefix netip.Prefix) any {
	bits := idBits + uint32(prefix.Bits())
	if FamilyOf(prefix.Addr()) == IPv4 {
		return &bpf.SourceKey4{Prefixlen: bits, Service: id, Addr: word4(prefix.Addr())}
	}
	return &bpf.SourceKey6{Prefixlen: bits, Service: id, Addr: words6(prefix.Addr())}
}

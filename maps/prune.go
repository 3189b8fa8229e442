// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// Prune removes elements with keys that Put does not make. No other method could address them:
// decoded and encoded again, their keys differ.
func (s *Services) Prune() (removed int, err error) {
	n4, err4 := prune(s.p.Map("services4"), "services4", func(k bpf.ServiceKey4) bool {
		mine, ok := Frontend{addr4(k.Addr), netPort(k.Port), k.Proto}.key().(*bpf.ServiceKey4)
		return ok && *mine == k
	})
	n6, err6 := prune(s.p.Map("services6"), "services6", func(k bpf.ServiceKey6) bool {
		mine, ok := Frontend{addr6(k.Addr), netPort(k.Port), k.Proto}.key().(*bpf.ServiceKey6)
		return ok && *mine == k
	})
	return n4 + n6, errors.Join(err4, err6)
}

// Prune removes elements with keys that Put does not make from a masked prefix. Those with too
// short a prefix would hold for other services, too.
func (s *Sources) Prune() (removed int, err error) {
	n4, err4 := prune(s.p.Map("source_ranges4"), "source_ranges4", func(k bpf.SourceKey4) bool {
		p := netip.PrefixFrom(addr4(k.Addr), int(k.Prefixlen)-idBits)
		return p.IsValid() && *sourceKey(k.Service, p.Masked()).(*bpf.SourceKey4) == k
	})
	n6, err6 := prune(s.p.Map("source_ranges6"), "source_ranges6", func(k bpf.SourceKey6) bool {
		p := netip.PrefixFrom(addr6(k.Addr), int(k.Prefixlen)-idBits)
		mine, ok := sourceKey(k.Service, p.Masked()).(*bpf.SourceKey6)
		return p.IsValid() && ok && *mine == k
	})
	return n4 + n6, errors.Join(err4, err6)
}

func prune[K comparable](m *ebpf.Map, name string, ours func(K) bool) (removed int, err error) {
	var strays []K
	var key K
	var value []byte
	it := m.Iterate()
	for it.Next(&key, &value) {
		if !ours(key) {
			strays = append(strays, key)
		}
	}
	if err := it.Err(); err != nil {
		return 0, fmt.Errorf("reading the map %s: %w", name, err)
	}
	for _, key := range strays {
		if err := m.Delete(&key); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return removed, fmt.Errorf("the map %s: %w", name, err)
		}
		removed++
	}
	return removed, nil
}

// SPDX-License-Identifier: Apache-2.0

// Package maps gives typed access to the pinned maps of the datapath, and has the allocators of the
// numbers used in them. The maps are the state: each allocator can be rebuilt from them.
package maps

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// Provider returns the datapath's maps by their names in C. An unknown name is a programming error,
// and panics.
type Provider interface {
	Map(name string) *ebpf.Map
}

// Family is an address family; its value is the suffix of the maps' names.
type Family uint8

// The address families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// Families lists both.
var Families = [...]Family{IPv4, IPv6}

// FamilyOf returns the family of an address.
func FamilyOf(a netip.Addr) Family {
	if a.Unmap().Is4() {
		return IPv4
	}
	return IPv6
}

// Any returns the unspecified address, under which NodePort frontends are stored.
func (f Family) Any() netip.Addr {
	if f == IPv4 {
		return netip.IPv4Unspecified()
	}
	return netip.IPv6Unspecified()
}

// pick returns the map of a family, as in pick(p, "services", IPv6).
func pick(p Provider, name string, f Family) *ebpf.Map {
	if f == IPv4 {
		return p.Map(name + "4")
	}
	return p.Map(name + "6")
}

// put writes an element of the map with that name. It returns an error that says so if the map is
// full.
func put(m *ebpf.Map, name string, key, value any) error {
	beforeWrite()
	err := m.Put(key, value)
	if errors.Is(err, unix.E2BIG) {
		return fmt.Errorf("the map %s is full (%d elements)", name, m.MaxEntries())
	}
	if err != nil {
		return fmt.Errorf("the map %s: %w", name, err)
	}
	return nil
}

// putPick is put for the map of a family.
func putPick(p Provider, name string, f Family, key, value any) error {
	return put(pick(p, name, f), fmt.Sprintf("%s%d", name, f), key, value)
}

// word4 and words6 convert addresses to the datapath's form: network byte order in memory.
func word4(a netip.Addr) uint32 {
	b := a.Unmap().As4()
	return binary.NativeEndian.Uint32(b[:])
}

func words6(a netip.Addr) (w [4]uint32) {
	b := a.As16()
	for i := range w {
		w[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return w
}

func addr4(w uint32) netip.Addr {
	var b [4]byte
	binary.NativeEndian.PutUint32(b[:], w)
	return netip.AddrFrom4(b)
}

func addr6(w [4]uint32) netip.Addr {
	var b [16]byte
	for i, v := range w {
		binary.NativeEndian.PutUint32(b[4*i:], v)
	}
	return netip.AddrFrom16(b)
}

// wordsOf converts an address to the 16 bytes that both families share: IPv4 in the first four.
func wordsOf(a netip.Addr) (w [4]uint32) {
	if FamilyOf(a) == IPv6 {
		return words6(a)
	}
	w[0] = word4(a)
	return w
}

// netPort converts a port from host to network byte order, or back.
func netPort(p uint16) uint16 {
	var b [2]byte
	binary.BigEndian.PutUint16(b[:], p)
	return binary.NativeEndian.Uint16(b[:])
}

// SPDX-License-Identifier: Apache-2.0

// Package probe holds the compiled programs of the benchmarks: drivers, which make packets and call
// the measured program, and the limits that it is compared with.
package probe

import (
	"fmt"
	"runtime"
	"strings"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

//go:generate sh generate.sh

// Frame is the size of the frames that the drivers make, in bytes.
const Frame = 96

// PortBits is how many bits of a flow's number count its port; the others count its address.
const PortBits = 14

// Drive describes the packets that a driver makes. Host byte order, except for Frame, which is memory.
type Drive = probeDrive

// Target is the limits' rewrite, and the device by which they transmit.
type Target struct {
	To  bpf.Tuple
	Hop bpf.Hop
}

// Filling are the established flows that the datapath's table is filled with.
type Filling struct {
	To  bpf.Tuple // the rewrite of flow 0
	Hop uint64
	// 1: the member differs for each flow, as in the driver's packets; 0: all flows have the same.
	SaddrMoves, DaddrMoves, SportMoves, DportMoves uint32

	Flags uint16
	_     [3]uint16
}

// Room is the size of the limits' tables, in records.
type Room struct {
	Hash, LRU uint32
}

// Load loads the programs over the datapath's maps. It makes the maps that it is not given.
func Load(replacements map[string]*ebpf.Map, room Room) (*ebpf.Collection, error) {
	spec, err := loadProbe()
	if err != nil {
		return nil, err
	}
	sizes := map[string]uint32{"bare_hash4": room.Hash, "bare_hash6": room.Hash, "bare_lru4": room.LRU, "bare_lru6": room.LRU,
		// not used, unless they are the datapath's
		"flows4": 1, "flows6": 1, "slots": 1, "backends": 1}
	used := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if size := sizes[name]; size > 0 {
			m.MaxEntries = size
		}
		if shared := replacements[name]; shared != nil && !strings.HasPrefix(name, ".") {
			used[name], m.MaxEntries = shared, shared.MaxEntries()
		}
	}
	if err := fit(spec); err != nil {
		return nil, err
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: used})
}

// LoadTable loads the programs of table.c. The tables of a family ("4" or "6"), waggle's own and
// the kernel's, have room for so many records.
func LoadTable(family string, own, kernel uint32) (*ebpf.Collection, error) {
	spec, err := loadTable()
	if err != nil {
		return nil, err
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	for _, f := range []string{"4", "6"} {
		spec.Maps["flows"+f].MaxEntries = 1
	}
	spec.Maps["flows"+family].MaxEntries = own / bpf.Ways
	for _, name := range []string{"hash", "lru"} {
		spec.Maps[name+family].MaxEntries = kernel
	}
	if err := fit(spec); err != nil {
		return nil, err
	}
	return ebpf.NewCollection(spec)
}

// fit sets the sizes of the flow tables in the programs of a spec, as bpf.Fit does in the
// datapath's.
func fit(spec *ebpf.CollectionSpec) error {
	values := map[string]any{"weakly_ordered": runtime.GOARCH != "amd64",
		"flow_sets4": spec.Maps["flows4"].MaxEntries, "flow_sets6": spec.Maps["flows6"].MaxEntries}
	for name, value := range values {
		if err := spec.Variables[name].Set(value); err != nil {
			return fmt.Errorf("set variable %s: %w", name, err)
		}
	}
	return nil
}

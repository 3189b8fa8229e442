// SPDX-License-Identifier: Apache-2.0

// Package probe holds the programs that benchmarks measure with, compiled: drivers, which make
// packets and call the program that is measured, and the limits that it is compared with.
package probe

import (
	"strings"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

//go:generate sh generate.sh

// Frame is the size of the frames that the drivers make, in bytes.
const Frame = 96

// PortBits is how many bits of a flow's number count its port; the others count its address.
const PortBits = 14

// Drive tells the drivers what packets to make. Host byte order, but for Frame, which is memory.
type Drive = probeDrive

// Load loads the programs over the datapath's maps; those that it is not given are its own. Bare
// is the size of the tables of bare insertions.
func Load(replacements map[string]*ebpf.Map, bare uint32) (*ebpf.Collection, error) {
	spec, err := loadProbe()
	if err != nil {
		return nil, err
	}
	used := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if name == "bare4" || name == "bare6" {
			m.MaxEntries = bare
		}
		if shared := replacements[name]; shared != nil && !strings.HasPrefix(name, ".") {
			used[name], m.MaxEntries = shared, shared.MaxEntries()
		} else if strings.HasPrefix(name, "flows") || name == "slots" || name == "backends" {
			m.MaxEntries = 16 // nobody looks into it
		}
	}
	if err := bpf.Fit(spec); err != nil {
		return nil, err
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: used})
}

// LoadTable loads the programs of table.c. The tables of a family ("4" or "6") have room for so many
// records.
func LoadTable(family string, records uint32) (*ebpf.Collection, error) {
	spec, err := loadTable()
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"own", "hash", "lru"} {
		spec.Maps[name+family].MaxEntries = records
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	for _, f := range []string{"4", "6"} {
		spec.Maps["flows_new"+f].MaxEntries = 16
	}
	spec.Maps["flows_new"+family].MaxEntries = records / bpf.Ways
	if err := bpf.Fit(spec); err != nil {
		return nil, err
	}
	return ebpf.NewCollection(spec)
}

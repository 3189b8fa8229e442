// SPDX-License-Identifier: Apache-2.0

// Package mapstest makes the datapath's maps for tests: the real ones, but small and not pinned.
// They are removed with the test.
package mapstest

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Maps is a maps.Provider.
type Maps map[string]*ebpf.Map

// Map implements maps.Provider.
func (m Maps) Map(name string) *ebpf.Map {
	found := m[name]
	if found == nil {
		panic("the datapath has no map " + name)
	}
	return found
}

// ReadOnly makes writes to a map fail, until undo is called.
func (m Maps) ReadOnly(t testing.TB, name string) (undo func()) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	must(unix.Statfs(bpffs, &fs))
	if fs.Type != unix.BPF_FS_MAGIC {
		must(unix.Mount("bpf", bpffs, "bpf", 0, ""))
	}
	writable := m[name]
	pin := fmt.Sprintf("%s/waggle-mapstest-%d-%s", bpffs, os.Getpid(), name)
	must(writable.Pin(pin)) // only through a pin does the kernel open a map for reading alone
	readOnly, err := ebpf.LoadPinnedMap(pin, &ebpf.LoadPinOptions{ReadOnly: true})
	must(errors.Join(err, writable.Unpin()))
	t.Cleanup(func() { readOnly.Close() })
	m[name] = readOnly
	return func() { m[name] = writable }
}

const (
	bpffs       = "/sys/fs/bpf"
	defaultSize = 512
)

// New makes the maps, with 512 elements each unless sizes says otherwise. It skips the test if
// the user isn't root.
func New(t testing.TB, sizes map[string]uint32) Maps {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it makes BPF maps")
	}
	spec, err := bpf.Spec()
	if err != nil {
		t.Fatal(err)
	}
	made := Maps{}
	for name, m := range spec.Maps {
		if m.Pinning != ebpf.PinByName {
			continue // the programs' own
		}
		m.Pinning = ebpf.PinNone
		if m.Type != ebpf.PerCPUArray {
			m.MaxEntries = min(m.MaxEntries, defaultSize)
		}
		if size := sizes[name]; size > 0 {
			m.MaxEntries = size
		}
		if made[name], err = ebpf.NewMap(m); err != nil {
			t.Fatalf("map %s: %v", name, err)
		}
		opened := made[name]
		t.Cleanup(func() { opened.Close() })
	}
	return made
}

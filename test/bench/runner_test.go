// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// Runs that are shorter than the number of flows visit all of them, and each once before any twice.
func TestWalk(t *testing.T) {
	const size, packets = 1 << 12, 1000
	for _, f := range tableFamilies() {
		tables, err := probe.LoadTable(f.suffix, 2*size, 2*size)
		if err != nil {
			t.Fatal(err)
		}
		defer tables.Close()
		r := runner{harness: harness{Collection: tables}, from: make([]byte, 6), to: make([]byte, 6), packets: packets, start: 123}
		s := r.subject("fill", bpf.HookXDP, tables.Programs["hash_fill"+f.suffix], f.there, size)
		for _, want := range []int{1000, 2000, 3000, 4000, size, size} {
			if _, err := s.measure(); err != nil {
				t.Fatal(err)
			}
			var key, value []byte
			visited := 0
			for all := tables.Maps["hash"+f.suffix].Iterate(); all.Next(&key, &value); visited++ {
			}
			if visited != want {
				t.Errorf("%s: %d flows visited, want %d", f.name, visited, want)
			}
		}
	}
}

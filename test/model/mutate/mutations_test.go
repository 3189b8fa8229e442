// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"testing"
)

// TestMutationsApply: the text that each mutation replaces is still there.
func TestMutationsApply(t *testing.T) {
	all := slices.Clone(ofNone)
	for _, s := range suites {
		all = append(all, s.mutations...)
	}
	for _, m := range all {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS("../../../bpf")); err != nil {
			t.Fatal(err)
		}
		if err := m.apply(dir); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
	}
}

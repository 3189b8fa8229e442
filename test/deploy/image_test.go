// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"debug/elf"
	"testing"
)

// TestStatic: the image has no dynamic linker and no libraries.
func TestStatic(t *testing.T) {
	f, err := elf.Open(binary)
	check(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			t.Error("the binary wants a dynamic linker")
		}
	}
	if libraries, err := f.ImportedLibraries(); len(libraries) > 0 || err != nil {
		t.Errorf("the binary wants %v (%v)", libraries, err)
	}
}

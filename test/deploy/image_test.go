// SPDX-License-Identifier: Apache-2.0

package deploy

import (
	"debug/elf"
	"os"
	"path/filepath"
	"slices"
	"strings"
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

// TestBuildContext: what the Dockerfile copies is in the repository or made by `make build`, and
// let through by .dockerignore.
func TestBuildContext(t *testing.T) {
	dockerfile, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	check(t, err)
	ignored, err := os.ReadFile(filepath.Join(root, ".dockerignore"))
	check(t, err)
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	check(t, err)
	var copied int
	for line := range strings.Lines(string(dockerfile)) {
		fields := strings.Fields(line)
		if len(fields) == 0 || fields[0] != "COPY" {
			continue
		}
		copied++
		if !slices.Contains(strings.Fields(string(ignored)), "!"+fields[1]) {
			t.Errorf(".dockerignore keeps %s out", fields[1])
		}
		if _, err := os.Stat(filepath.Join(root, fields[1])); err != nil && !strings.Contains(string(makefile), "BINARY := "+fields[1]) {
			t.Errorf("nothing makes %s", fields[1])
		}
	}
	if copied == 0 {
		t.Error("the image would be empty")
	}
}

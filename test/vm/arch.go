// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// arch is an architecture that a machine can have.
type arch struct {
	name   string // Debian's and Go's
	virtme string // virtme-ng's
	cpu    string // what qemu emulates
	kopts  []string
}

// A Neoverse N1 has the atomic instructions of ARMv8.1, and none of the pointer authentication
// that takes most of the time in qemu's "max". A cortex-a72 has neither.
var arches = map[string]arch{
	"amd64": {name: "amd64", virtme: "x86_64", cpu: "max", kopts: []string{"no5lvl"}},
	"arm64": {name: "arm64", virtme: "aarch64", cpu: "neoverse-n1"},
}

func architecture(name string) (arch, error) {
	a, ok := arches[name]
	if !ok {
		return a, fmt.Errorf("architecture %q: want one of %s", name, strings.Join(slices.Sorted(maps.Keys(arches)), ", "))
	}
	return a, nil
}

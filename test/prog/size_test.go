// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"maps"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
)

// TestProgramSizes prints the size of each program, to show its growth.
func TestProgramSizes(t *testing.T) {
	n := newNode(t)
	t.Logf("%-22s %8s %8s %10s", "program", "xlated", "jited", "verified")
	for _, name := range slices.Sorted(maps.Keys(n.spec.Programs)) {
		if n.spec.Programs[name].Type == ebpf.CGroupSockAddr {
			continue // not a program of packets
		}
		info, err := n.program(name).Info()
		if err != nil {
			t.Fatal(err)
		}
		xlated, err := info.TranslatedSize()
		if err != nil {
			t.Skip("this kernel doesn't show programs")
		}
		jited, _ := info.JitedSize()
		verified, _ := info.VerifiedInstructions()
		t.Logf("%-22s %8d %8d %10d", name, xlated, jited, verified)
	}
}

// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"testing"

	"github.com/cilium/ebpf/asm"
)

// TestBarriers: the atomic operations of choose_beside, which are its barriers, return a value. An operation that
// returns none is no barrier (Documentation/bpf/standardization/instruction-set.rst), and the compiler makes one of each whose
// result is not used.
func TestBarriers(t *testing.T) {
	const fetch = 1 // BPF_FETCH
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	inside, found := false, 0
	program := spec.Programs["waggle_ingress"].Instructions
	for _, ins := range program {
		if name := ins.Symbol(); name != "" && isFunction(program, name) {
			inside = name == "choose_beside"
		}
		if !inside || ins.OpCode.Class() != asm.StXClass || ins.OpCode.Mode() != asm.AtomicMode {
			continue
		}
		if found++; ins.Constant&fetch == 0 {
			t.Errorf("%v returns no value", ins)
		}
	}
	if found < 2 {
		t.Errorf("%d atomic operations, want those that note a datagram", found)
	}
}

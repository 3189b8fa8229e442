// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

const (
	// Of a program and its callees. The kernel allows 512; the rest is for changes to come.
	stackLimit = 448
	// Each frame is rounded up to this by kernels before 6.8, to 16 by later ones.
	stackGrain = 32
)

// frame is a function's part of the stack, and the functions that it calls.
type frame struct {
	depth int
	calls map[string]bool
}

// TestStack checks what the verifier of an old kernel would: the running one rounds less.
func TestStack(t *testing.T) {
	spec, err := Spec()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(spec.Programs)) {
		frames := framesOf(spec.Programs[name].Instructions)
		depth, chain := deepest(frames, name)
		t.Logf("%-18s %d: %s", name, depth, strings.Join(chain, " > "))
		if depth > stackLimit {
			t.Errorf("%s: the stack is %d bytes deep, want at most %d: %s", name, depth, stackLimit, strings.Join(chain, " > "))
		}
	}
}

func framesOf(program asm.Instructions) map[string]*frame {
	frames := map[string]*frame{}
	var f *frame
	for i, ins := range program {
		if name := ins.Symbol(); i == 0 || name != "" && isFunction(program, name) {
			f = &frame{calls: map[string]bool{}}
			frames[name] = f
		}
		if ins.IsFunctionReference() { // a call, or a callback
			f.calls[ins.Reference()] = true
		}
		f.depth = max(f.depth, -lowest(program, i))
	}
	return frames
}

// isFunction reports whether a symbol is a function's, and not a label.
func isFunction(program asm.Instructions, symbol string) bool {
	for _, ins := range program {
		if ins.IsFunctionReference() && ins.Reference() == symbol {
			return true
		}
	}
	return false
}

// lowest is the offset on the stack that an instruction reaches down to.
func lowest(program asm.Instructions, i int) int {
	ins := program[i]
	class := ins.OpCode.Class()
	switch {
	case class.IsLoad() && ins.Src == asm.RFP, class.IsStore() && ins.Dst == asm.RFP:
		return int(ins.Offset)
	case ins.OpCode == asm.Mov.Reg(0, 0).OpCode && ins.Src == asm.RFP && i+1 < len(program):
		if next := program[i+1]; next.OpCode == asm.Add.Imm(0, 0).OpCode && next.Dst == ins.Dst {
			return int(next.Constant)
		}
	}
	return 0
}

func deepest(frames map[string]*frame, name string) (depth int, chain []string) {
	for callee := range frames[name].calls {
		if d, c := deepest(frames, callee); d > depth {
			depth, chain = d, c
		}
	}
	own := max(frames[name].depth, 1)
	own = (own + stackGrain - 1) / stackGrain * stackGrain
	return depth + own, slices.Concat([]string{fmt.Sprintf("%s(%d)", name, frames[name].depth)}, chain)
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"

	"github.com/waggle-lb/waggle/bpf"
)

// firstUses are calls that need a program loaded on demand, with what is attached then, by hook.
var firstUses = []struct {
	name   string
	attach func(d *Datapath, ifindex int) error
	want   map[string]string
}{
	{"XDP", (*Datapath).AttachXDP, map[string]string{"xdp": xdpProgram}},
	{"no link layer", func(d *Datapath, ifindex int) error { return d.AttachTC(ifindex, ExternalL3) },
		map[string]string{"tc-ingress": "waggle_ingress_l3", "tc-egress": "waggle_egress_l3"}},
}

// expectPinned compares the ids of pinned programs with those that are loaded.
func expectPinned(t *testing.T, d *Datapath, programs map[string]string, want bool) {
	t.Helper()
	for _, name := range programs {
		id, err := pinnedProgramID(d.pins.programPin(name))
		switch {
		case want && (err != nil || id != programID(t, d, name)):
			t.Errorf("%s is pinned as %d (%v), want %d", name, id, err, programID(t, d, name))
		case !want && (d.Program(name) != nil || !errors.Is(err, os.ErrNotExist)):
			t.Errorf("%s is loaded, or pinned (%v), before a device needs it", name, err)
		}
	}
}

// TestOnDemand: a program is loaded when the first device needs it, and anew by the next agent. Until then the device
// runs the old one.
func TestOnDemand(t *testing.T) {
	for _, tt := range firstUses {
		t.Run(tt.name, func(t *testing.T) {
			newNetns(t)
			dir := newPinDir(t)
			ifindex := addVeth(t, "w0", "w1")
			d := mustLoad(t, small(dir))
			expectPinned(t, d, tt.want, false)
			must(t, tt.attach(d, ifindex))
			expectPinned(t, d, tt.want, true)
			expectPrograms(t, d, tt.want)
			before := linksOf(t, d)
			mustClose(t, d)

			d = mustLoad(t, small(dir))
			expectPinned(t, d, tt.want, false)
			for hook, status := range linksOf(t, d) {
				if !status.Attached || status.ProgramID != before[hook].ProgramID {
					t.Errorf("after Load: %s: %+v, before: %+v", hook, status, before[hook])
				}
			}
			must(t, tt.attach(d, ifindex))
			expectPinned(t, d, tt.want, true)
			expectPrograms(t, d, tt.want)
			for hook, status := range linksOf(t, d) {
				if status.LinkID != before[hook].LinkID {
					t.Errorf("%s: %+v is not the link that was there: %+v", hook, status, before[hook])
				}
			}
			mustClose(t, d)
			if _, err := Cleanup(dir, quiet()); err != nil {
				t.Error(err)
			}
			if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s is still there: %v", dir, err)
			}
		})
	}
}

// TestPodsLater: if the node has no pod yet, the program of pods' devices is loaded with the first pod or, without
// one, by LoadRest.
func TestPodsLater(t *testing.T) {
	program := map[string]string{"tc-ingress": podProgram}
	for _, first := range []bool{true, false} {
		newNetns(t)
		opts := small(newPinDir(t))
		opts.PodsLater = true
		d := mustLoad(t, opts)
		expectPinned(t, d, program, false)
		if !first {
			must(t, d.LoadRest())
			expectPinned(t, d, program, true)
		}
		loaded := d.Program(podProgram)
		must(t, d.AttachTC(addVeth(t, "w0", "w1"), Pod))
		if !first && d.Program(podProgram) != loaded {
			t.Error("the program was loaded once more")
		}
		expectPinned(t, d, program, true)
		expectPrograms(t, d, map[string]string{"tc-ingress": podProgram, "tc-egress": "waggle_egress"})
		attached := d.Program(podProgram)
		must(t, d.LoadRest())
		if d.Program(podProgram) != attached {
			t.Error("LoadRest has replaced the program of a device")
		}
	}
}

// TestClaimed: Options.Claimed is called before the verifier runs, and not if another process holds the pin
// directory.
func TestClaimed(t *testing.T) {
	newNetns(t)
	opts := small(newPinDir(t))
	claims := 0
	opts.Claimed = func() { claims++ }
	mustLoad(t, opts)
	if _, err := Load(opts); !errors.Is(err, ErrHeld) {
		t.Errorf("the second has %v, want %v", err, ErrHeld)
	}
	if claims != 1 {
		t.Errorf("claimed %d times, want once", claims)
	}
}

// broken is the datapath with programs that no verifier accepts.
func broken(names map[string]string) func() (*ebpf.CollectionSpec, error) {
	return func() (*ebpf.CollectionSpec, error) {
		spec, err := bpf.Whole()
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			spec.Programs[name].Instructions = asm.Instructions{asm.Return()} // of nothing
		}
		return spec, nil
	}
}

// TestOnDemandRefused: the error names each program that the kernel refuses, nothing is attached or pinned, and other
// devices stay. A later try may work.
func TestOnDemandRefused(t *testing.T) {
	for _, tt := range firstUses {
		t.Run(tt.name, func(t *testing.T) {
			newNetns(t)
			d := mustLoad(t, small(newPinDir(t)))
			served, ifindex := addVeth(t, "w0", "w1"), addVeth(t, "w2", "w3")
			must(t, d.AttachTC(served, External))
			others := linksOf(t, d)
			d.Loaded()
			d.compiled = broken(tt.want)

			err := tt.attach(d, ifindex)
			for _, name := range tt.want {
				if err == nil || !strings.Contains(err.Error(), "load the program "+name+":") || !strings.Contains(err.Error(), "w2") {
					t.Errorf("got %v, want an error that names %s and the device", err, name)
				}
			}
			expectPinned(t, d, tt.want, false)
			for hook, status := range linksOf(t, d) {
				if status != others[hook] || !status.Attached {
					t.Errorf("%s: %+v, before: %+v", hook, status, others[hook])
				}
			}

			d.compiled = bpf.Whole
			must(t, tt.attach(d, ifindex))
			expectPinned(t, d, tt.want, true)
		})
	}
}

// TestOldXDPGoesWhereNewIsRefused: tc does the work then, and no XDP program of an earlier agent stays beside it.
func TestOldXDPGoesWhereNewIsRefused(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	d := mustLoad(t, small(dir))
	must(t, d.AttachXDP(ifindex))
	mustClose(t, d)

	d = mustLoad(t, small(dir))
	d.Loaded()
	d.compiled = broken(firstUses[0].want)
	if err := d.AttachXDP(ifindex); err == nil {
		t.Error("a broken program was taken")
	}
	must(t, d.AttachTC(ifindex, External))
	expectPrograms(t, d, map[string]string{"tc-ingress": "waggle_ingress", "tc-egress": "waggle_egress"})
}

// TestUpgradeLoadsAll: where flows are converted, all programs are exchanged at once, so all are loaded before.
func TestUpgradeLoadsAll(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	pinOldFlows(t, dir)
	d := mustLoad(t, small(dir))
	spec, err := bpf.Spec()
	must(t, err)
	for name := range spec.Programs {
		if d.Program(name) == nil {
			t.Errorf("%s is not loaded", name)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const tcActOK = 0

func expectNeighbours(t *testing.T, d *Datapath, cgroup string, want ...Neighbour) {
	t.Helper()
	got, err := d.Neighbours(cgroup)
	must(t, err)
	if !slices.Equal(got, want) {
		t.Errorf("before ours run %+v, want %+v", got, want)
	}
}

// attachOther attaches a program that is not waggle's to a TCX hook.
func attachOther(t *testing.T, ifindex int, attach ebpf.AttachType, anchor link.Anchor) ebpf.ProgramID {
	t.Helper()
	program := otherProgram(t, ebpf.SchedCLS, tcActOK)
	l, err := link.AttachTCX(link.TCXOptions{Interface: ifindex, Program: program, Attach: attach, Anchor: anchor})
	must(t, err)
	t.Cleanup(func() { l.Close() })
	return idOf(t, program)
}

func idOf(t *testing.T, program *ebpf.Program) ebpf.ProgramID {
	t.Helper()
	info, err := program.Info()
	must(t, err)
	id, _ := info.ID()
	return id
}

// TestNeighboursTCX, of contract 56: our program goes first, before any that was there. One that
// goes before it later is found. The next agent's program goes first again, by another link.
func TestNeighboursTCX(t *testing.T) {
	newNetns(t)
	needTCX(t)
	dir := newPinDir(t)
	ifindex := addVeth(t, "w0", "w1")
	addVeth(t, "w2", "w3")
	attachOther(t, ifindex, ebpf.AttachTCXIngress, link.Head())
	attachOther(t, ifindexOf(t, "w2"), ebpf.AttachTCXIngress, link.Head())
	d := mustLoad(t, small(dir))
	must(t, d.AttachTC(ifindex, External))
	attachOther(t, ifindex, ebpf.AttachTCXEgress, link.Tail())
	expectNeighbours(t, d, "")

	ingress := attachOther(t, ifindex, ebpf.AttachTCXIngress, link.Head())
	egress := attachOther(t, ifindex, ebpf.AttachTCXEgress, link.Head())
	expectNeighbours(t, d, "",
		Neighbour{Hook: "tc-ingress", Device: "w0", Ifindex: ifindex, Name: "somebody_else", ID: ingress},
		Neighbour{Hook: "tc-egress", Device: "w0", Ifindex: ifindex, Name: "somebody_else", ID: egress})
	mustClose(t, d)

	d = mustLoad(t, small(dir))
	must(t, d.AttachTC(ifindex, External))
	expectNeighbours(t, d, "")
	expectPrograms(t, d, map[string]string{"tc-ingress": "waggle_ingress", "tc-egress": "waggle_egress"})
	if got := attached(t, ifindex, ebpf.AttachTCXIngress); len(got) != 3 {
		t.Errorf("ingress runs %v, want ours and two of other programs", got)
	}
}

// TestNeighboursClsact, of contract 56: likewise where our programs are filters. There a new filter
// of the same priority goes first, ours or another.
func TestNeighboursClsact(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	d := mustLoad(t, clsactOptions(dir))
	ifindex := addVeth(t, "w0", "w1")
	must(t, d.AttachTC(ifindex, External))
	addFilter := func(handle uint32, priority uint16) ebpf.ProgramID {
		program := otherProgram(t, ebpf.SchedCLS, tcActOK)
		must(t, netlink.FilterAdd(&netlink.BpfFilter{
			FilterAttrs: netlink.FilterAttrs{LinkIndex: ifindex, Parent: netlink.HANDLE_MIN_INGRESS,
				Handle: handle, Protocol: unix.ETH_P_ALL, Priority: priority},
			Fd: program.FD(), Name: "a filter", DirectAction: true,
		}))
		return idOf(t, program)
	}
	addFilter(1, filterPriority+1)
	expectNeighbours(t, d, "")
	for handle := range uint32(3) { // our filter alternates between two handles
		id := addFilter(2+handle, filterPriority)
		expectNeighbours(t, d, "", Neighbour{Hook: "tc-ingress", Device: "w0", Ifindex: ifindex, Name: "somebody_else", ID: id})
		mustClose(t, d)
		d = mustLoad(t, clsactOptions(dir))
		must(t, d.AttachTC(ifindex, External))
		expectNeighbours(t, d, "")
		expectPrograms(t, d, map[string]string{"tc-ingress": "waggle_ingress", "tc-egress": "waggle_egress"})
		if got, want := len(filtersOf(t, "w0")), 4+int(handle); got != want {
			t.Errorf("%d filters, want %d: two of ours", got, want)
		}
		must(t, d.AttachTC(ifindex, Pod)) // in place
		expectNeighbours(t, d, "")
		must(t, d.AttachTC(ifindex, External))
	}
}

// TestNeighboursXDP, of contract 56: another XDP program on a device that our programs serve by tc.
func TestNeighboursXDP(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	ifindex := addVeth(t, "w0", "w1")
	program := otherProgram(t, ebpf.XDP, 2 /* XDP_PASS */)
	l, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: ifindex})
	must(t, err)
	defer l.Close()
	expectNeighbours(t, d, "")
	must(t, d.AttachTC(ifindex, External))
	expectNeighbours(t, d, "", Neighbour{Hook: "xdp", Device: "w0", Ifindex: ifindex, Name: "somebody_else", ID: idOf(t, program)})
	must(t, l.Close())
	must(t, d.AttachXDP(ifindex))
	expectNeighbours(t, d, "")
}

// TestNeighboursCgroup, of contract 56: programs before ours in a cgroup are found, those after it
// are not.
func TestNeighboursCgroup(t *testing.T) {
	newNetns(t)
	cgroup := newCgroup(t, t.Name())
	d := mustLoad(t, small(newPinDir(t)))
	attach := func() ebpf.ProgramID {
		program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
			Name: "somebody_else", Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect,
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}, License: "GPL",
		})
		must(t, err)
		t.Cleanup(func() { program.Close() })
		l, err := link.AttachCgroup(link.CgroupOptions{Path: cgroup, Attach: ebpf.AttachCGroupInet4Connect, Program: program})
		must(t, err)
		t.Cleanup(func() { l.Close() })
		return idOf(t, program)
	}
	first := attach()
	expectNeighbours(t, d, cgroup)
	must(t, d.AttachCgroup(cgroup))
	attach()
	expectNeighbours(t, d, cgroup, Neighbour{Hook: "connect4", Cgroup: cgroup, Name: "somebody_else", ID: first})
}

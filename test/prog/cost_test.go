// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"text/tabwriter"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/gopacket/gopacket/layers"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

var cost = flag.Bool("cost", false, "measure what a packet costs in each program (make bench)")

const (
	costRuns  = 20000 // of each case, each time
	costTimes = 5     // the cases take turns, so that a disturbance affects all of them
)

// costCase is a packet that is run repeatedly. Each run starts from the same packet: a program's
// own output would be another flow's packet.
type costCase struct {
	name    string
	program *ebpf.Program
	node    *node
	hook    bpf.Hook
	verdict bpf.Verdict // the result of every run
	options ebpf.RunOptions
	ns      []float64
}

// TestCost prints a table of nanoseconds, without the harness's share, which is measured with a
// program that does nothing. It asserts the paths, never the times.
func TestCost(t *testing.T) {
	if !*cost {
		t.Skip("a measurement: make bench")
	}
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	idle := map[bpf.Hook]*costCase{
		bpf.HookXDP:       {name: "nothing (xdp)", program: nothing(t, ebpf.XDP), options: ebpf.RunOptions{Data: make([]byte, 64)}},
		bpf.HookTCIngress: {name: "nothing (tc)", program: nothing(t, ebpf.SchedCLS), options: ebpf.RunOptions{Data: make([]byte, 64)}},
	}
	cases := []*costCase{idle[bpf.HookXDP], idle[bpf.HookTCIngress]}
	for _, v := range variants {
		if v.proto == layers.IPProtocolTCP {
			cases = append(cases, costCases(t, v)...)
		}
	}
	for range costTimes {
		for _, c := range cases {
			c.measure(t)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "packet\tns\tspread\t")
	for _, c := range cases[2:] {
		base := median(idle[c.hook].ns)
		fmt.Fprintf(w, "%s\t%.0f\t%.0f-%.0f\t\n", c.name, median(c.ns)-base, slices.Min(c.ns)-base, slices.Max(c.ns)-base)
	}
	w.Flush()
}

func nothing(t *testing.T, kind ebpf.ProgramType) *ebpf.Program {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: kind, License: "GPL", Instructions: asm.Instructions{
		asm.Mov.Imm(asm.R0, xdpPass), asm.Return(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

// costCases are packets of an established flow, on each path, and packets of no flow.
func costCases(t *testing.T, v variant) []*costCase {
	var cases []*costCase
	for _, p := range []path{sameDevice, tcExpress, stack} {
		c := converse(newNode(t), v, p)
		c.establish()
		request := c.packet(c.client, c.frontend, acked)
		if p.name == sameDevice.name {
			cases = append(cases, costOf(c.node, v, "xdp: express", bpf.HookXDP, bpf.VerdictExpress, request),
				costOf(c.node, v, "xdp: express, reply", bpf.HookXDP, bpf.VerdictExpress, c.packet(c.backend, c.source, acked)),
				costOf(c.node, v, "xdp: not ours", bpf.HookXDP, bpf.VerdictNotOurs, v.packet(at(v.client, 1), at(v.client2, 2))))
		} else if p.name == stack.name {
			cases = append(cases, costOf(c.node, v, "xdp: local backend", bpf.HookXDP, bpf.VerdictLeftToTC, request),
				costOf(c.node, v, "tc: local backend", bpf.HookTCIngress, bpf.VerdictStack, request),
				costOf(c.node, v, "tc: not ours", bpf.HookTCIngress, bpf.VerdictNotOurs, v.packet(at(v.client, 1), at(v.client2, 2))))
		} else {
			cases = append(cases, costOf(c.node, v, "tc: express", bpf.HookTCIngress, bpf.VerdictExpress, request))
		}
	}
	return cases
}

func costOf(n *node, v variant, name string, hook bpf.Hook, verdict bpf.Verdict, p packet) *costCase {
	program := "waggle_ingress"
	if hook == bpf.HookXDP {
		program = "waggle_xdp"
	}
	p = p.with(macs(p.ethSrc, front.mac()))
	c := &costCase{name: v.name + " " + name, program: n.program(program), node: n, hook: hook, verdict: verdict}
	c.options = ebpf.RunOptions{Data: p.bytes(), Repeat: 1, Context: struct {
		notOurs          [9]uint32
		ingress, ifindex uint32
	}{ingress: uint32(front.index), ifindex: uint32(front.index)}}
	if hook == bpf.HookXDP {
		c.options.Context = struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{
			dataEnd: uint32(len(c.options.Data)), ingress: uint32(front.index),
		}
	}
	return c
}

func (c *costCase) measure(t *testing.T) {
	t.Helper()
	before := stats(t, c.program)
	if c.node != nil {
		c.node.count()
	}
	for range costRuns {
		opts := c.options
		opts.DataOut = nil
		if _, err := c.program.Run(&opts); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
	}
	after := stats(t, c.program)
	c.ns = append(c.ns, float64(after.Runtime-before.Runtime)/float64(after.RunCount-before.RunCount))
	c.checkPath(t)
}

// checkPath checks that the name describes what was measured.
func (c *costCase) checkPath(t *testing.T) {
	t.Helper()
	if c.node == nil {
		return
	}
	i := int(c.hook)*int(bpf.VerdictCount) + int(c.verdict)
	before := c.node.count()
	if got := c.node.counted[i] - before[i]; got != costRuns {
		t.Fatalf("%s: %d of %d packets ended as %s", c.name, got, costRuns, bpf.VerdictName(c.verdict))
	}
}

func stats(t *testing.T, p *ebpf.Program) *ebpf.ProgramStats {
	t.Helper()
	s, err := p.Stats()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

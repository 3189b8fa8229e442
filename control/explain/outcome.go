// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// What XDP and tc programs return: enum xdp_action of linux/bpf.h, TC_ACT_* of linux/pkt_cls.h.
const (
	xdpDrop = 1
	xdpPass = 2
	tcShot  = 2
	tcNext  = 1<<32 - 1
)

func (t *report) action(code uint32) string {
	drop, on := uint32(tcShot), uint32(tcNext)
	if t.hook == hookXDP {
		drop, on = xdpDrop, xdpPass
	}
	switch code {
	case drop:
		return actionDropped
	case on:
		return actionOn
	}
	return actionSent
}

func (t *report) outcome(trace *loader.Trace) (Outcome, error) {
	o := Outcome{
		Verdict: verdictName(trace.Verdict), Action: t.action(trace.Action), Opens: opened(trace) && !t.recorded,
		Confirms: slices.Contains(trace.Events, bpf.VerdictFlowConfirmed),
	}
	r := trace.Record
	if r.Backend != 0 && trace.Notes.Steps&bpf.TraceICMP == 0 {
		o.Backend, o.Endpoint = r.Backend, t.endpoint(trace)
	}
	if translated(trace) {
		o.Way = wayOf(r.Flags)
		t.rewrite(trace, &o)
		o.NextHop = nextHopWords(trace)
	}
	var err error
	o.Reason, o.Advice, err = t.verdictWords(trace)
	return o, err
}

func verdictName(v bpf.Verdict) string {
	if v >= bpf.VerdictCount {
		return "none"
	}
	return bpf.VerdictName(v)
}

// endpoint returns the backend's address: the destination of a client's packets, or the source of a
// backend's.
func (t *report) endpoint(trace *loader.Trace) netip.AddrPort {
	if trace.Record.Flags&bpf.FlowReply != 0 {
		return tupleOf(trace).Src
	}
	return maps.DecodeTuple(familyOf(trace), trace.Record.To).Dst
}

// translated reports whether this program, or the next one, applies the record's rewrite.
func translated(trace *loader.Trace) bool {
	switch trace.Verdict {
	case bpf.VerdictExpress, bpf.VerdictStack, bpf.VerdictSource:
		return true
	case bpf.VerdictLeftToTC:
		return trace.Record.Tag != 0
	}
	return false
}

func (t *report) rewrite(trace *loader.Trace, o *Outcome) {
	from, to := tupleOf(trace), maps.DecodeTuple(familyOf(trace), trace.Record.To)
	if to.Src != from.Src && trace.Verdict != bpf.VerdictStack {
		o.Source = to.Src.String()
		if (o.Opens || t.recorded) && to.Src.Port() != from.Src.Port() {
			o.Source = fmt.Sprintf("%s, a free port of %d-%d", to.Src.Addr(), t.snatMin, t.snatMax)
		}
	}
	if to.Dst != from.Dst && trace.Verdict != bpf.VerdictSource {
		o.Dest = to.Dst.String()
	}
}

// nextHopWords describes the next hop of a packet that is sent past the stack.
func nextHopWords(trace *loader.Trace) string {
	if trace.Verdict != bpf.VerdictExpress {
		return ""
	}
	if trace.Record.Flags&bpf.FlowTurn != 0 {
		return "back out of the device that it came in by"
	}
	words := "out of " + deviceName(int(trace.Hop.Ifindex))
	if trace.Notes.Steps&bpf.TraceFIB != 0 {
		words += " to " + via(trace).String()
	}
	if trace.Hop.Flags&bpf.HopResolved == 0 {
		return words + ", which the kernel is to resolve"
	}
	return words + " at " + net.HardwareAddr(trace.Hop.Dmac[:]).String()
}

func via(trace *loader.Trace) netip.Addr {
	return maps.DecodeAddr(familyOf(trace), trace.Notes.FibVia)
}

// fibWords describes the FIB's answer.
func fibWords(trace *loader.Trace) string {
	n := trace.Notes
	switch n.Fib {
	case unix.BPF_FIB_LKUP_RET_SUCCESS:
		return fmt.Sprintf("%s by way of %s", deviceName(int(n.FibIfindex)), via(trace))
	case unix.BPF_FIB_LKUP_RET_NO_NEIGH:
		return fmt.Sprintf("%s by way of %s, whose link-layer address the kernel does not know yet", deviceName(int(n.FibIfindex)), via(trace))
	case unix.BPF_FIB_LKUP_RET_BLACKHOLE:
		return "a blackhole route"
	case unix.BPF_FIB_LKUP_RET_UNREACHABLE:
		return "an unreachable route"
	case unix.BPF_FIB_LKUP_RET_PROHIBIT:
		return "a prohibit route"
	case unix.BPF_FIB_LKUP_RET_NOT_FWDED:
		return "none that leads on: to this node itself, or none at all"
	case unix.BPF_FIB_LKUP_RET_FWD_DISABLED:
		return "the device does not forward (sysctl net.ipv4.conf.*.forwarding, net.ipv6.conf.*.forwarding)"
	case unix.BPF_FIB_LKUP_RET_UNSUPP_LWT:
		return "one that encapsulates"
	}
	return fmt.Sprintf("the kernel answers %d", n.Fib)
}

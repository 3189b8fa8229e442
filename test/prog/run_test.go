// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// The programs' return values.
const (
	xdpDrop     = 1
	xdpPass     = 2
	xdpTX       = 3
	xdpRedirect = 4

	tcNext     = 1<<32 - 1 // TC_ACT_UNSPEC
	tcShot     = 2
	tcRedirect = 7
)

// result is one packet's result at one hook.
type result struct {
	t       *testing.T
	hook    bpf.Hook
	in, out []byte
	sent    packet // the packet from which `in` was made
	action  uint32
	verdict bpf.Verdict
	events  []bpf.Verdict
}

func (n *node) xdp(in *device, p packet) result {
	n.t.Helper()
	p = p.with(macs(p.ethSrc, in.mac()))
	r := n.xdpFrame(in, p.bytes())
	r.sent = p
	return r
}

func (n *node) xdpFrame(in *device, frame []byte) result {
	n.t.Helper()
	asExplained := n.explain(bpf.HookXDP, "waggle_xdp", in, frame)
	return asExplained(n.run(bpf.HookXDP, "waggle_xdp", frame, xdpContext(in, frame), 0))
}

// xdpContext is struct xdp_md, with the members that the kernel reads.
func xdpContext(in *device, frame []byte) any {
	return struct{ data, dataEnd, dataMeta, ingress, queue, egress uint32 }{
		dataEnd: uint32(len(frame)), ingress: uint32(in.index),
	}
}

func (n *node) ingress(in *device, p packet) result {
	n.t.Helper()
	return n.tc(bpf.HookTCIngress, "waggle_ingress", in, p)
}

func (n *node) egress(out *device, p packet) result {
	n.t.Helper()
	return n.tc(bpf.HookTCEgress, "waggle_egress", out, p)
}

func (n *node) podIngress(in *device, p packet) result {
	n.t.Helper()
	return n.tc(bpf.HookTCPod, "waggle_pod", in, p)
}

func (n *node) tc(hook bpf.Hook, program string, d *device, p packet) result {
	n.t.Helper()
	if hook != bpf.HookTCEgress {
		p = p.with(macs(p.ethSrc, d.mac()))
	}
	r := n.tcFrame(hook, program, d, p.bytes(), deviceSums(p))
	r.sent = p
	return r
}

// deviceSums makes the kernel give the packet a device's sum over all of it
// (CHECKSUM_COMPLETE), and fail the run if the sum does not match the result. A
// packet without a checksum can't be compensated for, and need not be. A packet
// that is shortened loses its sum, which the kernel's check does not allow for.
func deviceSums(p packet) uint32 {
	if p.noChecksum || p.noDeviceSum {
		return 0
	}
	return 1 << 2 // BPF_F_TEST_SKB_CHECKSUM_COMPLETE
}

func (n *node) tcFrame(hook bpf.Hook, program string, d *device, frame []byte, flags uint32) result {
	n.t.Helper()
	asExplained := n.explain(hook, program, d, frame)
	return asExplained(n.run(hook, program, frame, skbContext{ingress: uint32(d.index), ifindex: uint32(d.index)}, flags))
}

// skbContext is struct __sk_buff, up to the last member that a caller may set.
type skbContext struct {
	_                [9]uint32
	ingress, ifindex uint32
	_                uint32
	cb               [5]uint32
	_                [24]uint32
	gsoSegments      uint32
	_                [2]uint32
	gsoSize          uint32
}

func (n *node) run(hook bpf.Hook, program string, frame []byte, context any, flags uint32) result {
	n.t.Helper()
	p := n.program(program)
	n.count()
	opts := &ebpf.RunOptions{
		Data: frame, DataOut: make([]byte, len(frame)+256), Context: context, Repeat: 1, Flags: flags,
	}
	action, err := p.Run(opts)
	if err != nil {
		n.t.Fatalf("%s: %v (EBADMSG: the device's sum is not that of the packet)", program, err)
	}
	r := result{t: n.t, hook: hook, in: frame, out: opts.DataOut, action: action}
	r.verdict, r.events = n.counts(hook)
	return r
}

func (r result) is(verdict bpf.Verdict, action uint32) bool {
	r.t.Helper()
	if r.verdict != verdict || r.action != action {
		r.t.Errorf("%s: verdict %s, action %d; want %s, %d", bpf.HookName(r.hook),
			bpf.VerdictName(r.verdict), int32(r.action), bpf.VerdictName(verdict), int32(action))
		return false
	}
	return true
}

// passed expects that the packet went on, unchanged in every bit.
func (r result) passed(verdict bpf.Verdict) {
	r.t.Helper()
	action := uint32(xdpPass)
	if r.hook != bpf.HookXDP {
		action = tcNext
	}
	if r.is(verdict, action) {
		same(r.t, r.in, r.out)
	}
}

func (r result) dropped(verdict bpf.Verdict) {
	r.t.Helper()
	action := uint32(xdpDrop)
	if r.hook != bpf.HookXDP {
		action = tcShot
	}
	r.is(verdict, action)
}

// became expects that the packet is `sent` after the changes, without any other
// difference.
func (r result) became(verdict bpf.Verdict, action uint32, changes ...change) packet {
	r.t.Helper()
	want := r.sent.with(changes...)
	if r.is(verdict, action) {
		same(r.t, want.bytes(), r.out)
		sound(r.t, r.out)
	}
	return want
}

// had expects exactly these events.
func (r result) had(events ...bpf.Verdict) {
	r.t.Helper()
	equal(r.t, "events", names(events), names(r.events))
}

func names(verdicts []bpf.Verdict) []string {
	var s []string
	for _, v := range verdicts {
		s = append(s, bpf.VerdictName(v))
	}
	return s
}

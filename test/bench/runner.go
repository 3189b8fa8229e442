// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/bench/probe"
)

// runner makes subjects of the programs that one harness runs.
type runner struct {
	harness
	from, to []byte // MAC addresses of the frames
	packets  uint32 // of a run
	start    uint32 // the first packet's flow of the next subject
	fresh    uint32 // number of the next flow that never existed
}

func newRunner(o options) runner {
	r := runner{packets: 200_000}
	if o.quick {
		r.packets /= 10
	}
	return r
}

// walk numbers the packets of one subject. Each run continues where the last one stopped, so runs
// that are shorter than the number of flows visit all of them in the end.
type walk struct{ next uint32 }

// newWalk begins where the first run of the subject before stops: if each used the flows of the one
// before it, they would still be in the processor's caches.
func (r *runner) newWalk() *walk {
	w := &walk{next: r.start}
	r.start += r.packets
	return w
}

// on makes a driver continue from here.
func (w *walk) on(d probe.Drive) probe.Drive {
	d.Next = w.next
	return d
}

// subject runs a program on packets of the first size flows.
func (r *runner) subject(name string, hook bpf.Hook, program *ebpf.Program, f flows, size uint32) *subject {
	at := r.newWalk()
	return &subject{name: name, measure: func() (float64, error) {
		frame, err := f.frame(r.from, r.to)
		if err != nil {
			return 0, err
		}
		ran, ns, err := r.run(hook, program, at.on(f.drive(frame, size)), r.packets)
		at.next += ran
		return ns, err
	}}
}

// freshFlows is how many new flows a run makes, if they end before the next run.
func (r *runner) freshFlows() uint32 { return min(r.packets, 1<<16) }

// freshSubject runs an XDP program on packets of new flows. end, if it is set, ends them before the
// next run.
func (r *runner) freshSubject(name string, program, end *ebpf.Program, f flows, services uint32) *subject {
	packets := r.packets
	if end != nil {
		packets = r.freshFlows()
	}
	return &subject{name: name, measure: func() (float64, error) {
		frame, err := f.frame(r.from, r.to)
		if err != nil {
			return 0, err
		}
		d := r.freshDrive(f, frame, services)
		ran, ns, err := r.run(bpf.HookXDP, program, d, packets)
		if err == nil && end != nil {
			_, _, err = r.run(bpf.HookXDP, end, d, ran)
		}
		return ns, err
	}}
}

// freshDrive makes packets of new flows. If services is not 0, they go to so many services in turn.
func (r *runner) freshDrive(f flows, frame []byte, services uint32) probe.Drive {
	d := f.drive(frame, 1<<26)
	d.Stride = 1
	if services > 0 {
		d = f.sweep(frame, services)
	}
	d.Next = r.fresh
	r.fresh += 2 * r.packets // a restarted run makes more
	return d
}

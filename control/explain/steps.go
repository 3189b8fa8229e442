// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// report puts into words what one program would do with a packet.
type report struct {
	*Explainer
	hook, program string
	device        device
	frame         []byte
	recorded      bool // the program before it would have recorded the flow
	steps         []Step
}

// What programs finally do with a packet.
const (
	actionOn      = "passed on" // to the next program, or to the stack
	actionSent    = "sent"
	actionDropped = "dropped"
)

func (t *report) step(name, format string, args ...any) {
	t.steps = append(t.steps, Step{name, fmt.Sprintf(format, args...)})
}

func (t *report) describeHook(traces []asked) (Hook, error) {
	trace := traces[0].Trace
	if err := t.describeSteps(trace, len(traces) == 1); err != nil {
		return Hook{}, err
	}
	h := Hook{Hook: t.hookName(), Device: t.device.name, Program: t.program}
	for _, one := range traces {
		o, err := t.outcome(one.Trace)
		if err != nil {
			return Hook{}, err
		}
		if total := ScopeOf(trace).Count; trace.Notes.Steps&bpf.TraceRandom != 0 && total > 0 {
			o.Share = 1 / float64(total)
		}
		h.Outcomes = append(h.Outcomes, o)
	}
	h.Steps = t.steps
	if t.hook == hookXDP {
		h.leaveToTC(trace)
	}
	return h, nil
}

// leaveToTC leaves the outcome to the tc hook, which decides about packets that XDP does not handle.
func (h *Hook) leaveToTC(trace *loader.Trace) {
	for _, o := range h.Outcomes {
		if o.Action != actionOn || o.Opens || o.Way != "" {
			return
		}
	}
	for i := range h.Outcomes {
		if trace.Verdict != bpf.VerdictLeftToTC {
			h.Outcomes[i].Reason = "XDP does nothing about it: tc looks at it next"
		}
		h.Outcomes[i].Advice = ""
	}
	h.Steps = h.Steps[:min(len(h.Steps), 1)]
}

// hookName returns the name of the hook in counters and metrics.
func (t *report) hookName() string {
	if t.program == "waggle_pod" {
		return bpf.HookName(bpf.HookTCPod)
	}
	return t.hook
}

func (t *report) describeSteps(trace *loader.Trace, single bool) error {
	if !t.parsed(trace) {
		return nil
	}
	steps := trace.Notes.Steps
	if steps&bpf.TraceICMP != 0 {
		t.icmp(trace)
		return nil
	}
	if understood(trace) {
		if err := t.flow(trace); err != nil {
			return err
		}
	}
	if err := t.frontend(trace); err != nil {
		return err
	}
	if steps&bpf.TraceSocket != 0 {
		t.step("socket", "a socket of this node has the connection")
	}
	if steps&bpf.TraceFIB != 0 && single {
		t.step("route", "%s", fibWords(trace))
	}
	return nil
}

func familyOf(trace *loader.Trace) maps.Family {
	if trace.Packet.Family == unix.AF_INET {
		return maps.IPv4
	}
	return maps.IPv6
}

func tupleOf(trace *loader.Trace) maps.Tuple {
	return maps.DecodeTuple(familyOf(trace), trace.Packet.Tuple)
}

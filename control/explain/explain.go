// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"errors"
	"fmt"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
)

// Explainer answers questions about the datapath of one pin directory. It must be used in the network namespace of
// the node.
type Explainer struct {
	view  *loader.View
	twin  *loader.Twin
	links []loader.LinkStatus
	constants
}

// constants are those of the running programs that the words need.
type constants struct {
	hz                                    uint32
	nodePortMin, nodePortMax              uint16
	snatMin, snatMax                      uint16
	host                                  uint64 // the cookie of the node's network namespace
	tcp, halfClosed, closed, reset        uint32 // jiffies that a record outlives its last packet by
	udp, unanswered                       uint32
	answersPings, masquerades, hostsAlone bool
}

// New loads the explain twin of the programs that run.
func New(v *loader.View) (*Explainer, error) {
	twin, err := v.Twin()
	if err != nil {
		return nil, err
	}
	e := &Explainer{view: v, twin: twin}
	if e.links, err = v.Links(); err == nil {
		err = e.readConstants()
	}
	if err != nil {
		twin.Close()
		return nil, err
	}
	return e, nil
}

func (e *Explainer) readConstants() error {
	var errs []error
	for name, into := range map[string]any{
		"hz": &e.hz, "nodeport_min": &e.nodePortMin, "nodeport_max": &e.nodePortMax, "snat_min": &e.snatMin, "snat_max": &e.snatMax,
		"host_netns_cookie": &e.host, "timeout_tcp": &e.tcp, "timeout_tcp_half_closed": &e.halfClosed, "timeout_tcp_closed": &e.closed,
		"timeout_tcp_reset": &e.reset, "timeout_udp": &e.udp, "timeout_new": &e.unanswered,
		"answer_ping": &e.answersPings, "masquerade_all": &e.masquerades, "socket_lb_host": &e.hostsAlone,
	} {
		errs = append(errs, e.twin.Constant(name, into))
	}
	return errors.Join(errs...)
}

// Close unloads the twin.
func (e *Explainer) Close() { e.twin.Close() }

// Packet explains a packet that is described.
func (e *Explainer) Packet(q Question) (*Answer, error) {
	if err := q.Check(); err != nil {
		return nil, err
	}
	if q.asksMAC() {
		return e.whoHas(q)
	}
	named := q.From.IsValid() || q.Pod != ""
	if !named {
		q.From = Outside(q.To.Addr())
	}
	d, err := e.place(&q, named)
	if err != nil {
		return nil, err
	}
	frame := q.packet()
	if d.mac != nil {
		frame = ethernet(d.mac, frame)
	}
	a, err := e.frame(d, frame, q.Leaving)
	if err != nil {
		return nil, err
	}
	way := "enters by"
	if q.Leaving {
		way = "leaves by"
	}
	a.Asked = fmt.Sprintf("%s, %s %s", q.describe(), way, d.name)
	if !named {
		a.Note = fmt.Sprintf("no --from: %s stands for a client outside of the cluster", q.From)
	}
	return a, nil
}

// place finds where the packet is, and of a pod's also its source.
func (e *Explainer) place(q *Question, named bool) (device, error) {
	switch {
	case q.Pod != "":
		return e.fromPod(q)
	case q.Device != "":
		return e.deviceNamed(q.Device)
	case q.Leaving:
		return device{}, errors.New("--leaving: name the device, with --device")
	}
	return e.deviceTowards(q.From.Addr(), named)
}

// asked is a program's answer where the endpoint of one number is chosen.
type asked struct {
	pick uint32
	*loader.Trace
}

// maxCandidates is of how many endpoints each is tried.
const maxCandidates = 64

// frame explains what becomes of a frame at a device.
func (e *Explainer) frame(d device, frame []byte, leaving bool) (*Answer, error) {
	a := &Answer{Hooks: []Hook{}}
	names := []string{hookXDP, hookIngress}
	if leaving {
		names = []string{hookEgress}
	}
	if d.mac != nil && tagged(frame) { // tc sees no tag in a test run's frame, and one beside it in life
		names = names[:1]
		a.Note = "a frame with a VLAN tag: tc leaves it to the VLAN's own device"
	}
	var picks []uint32
	recorded := false
	for _, name := range names {
		program := d.programs[name]
		if program == "" {
			continue
		}
		traces, err := e.ask(program, d, frame, picks)
		if err != nil {
			return nil, err
		}
		t := report{Explainer: e, hook: name, program: program, device: d, frame: frame, recorded: recorded}
		h, err := t.describeHook(traces)
		if err != nil {
			return nil, err
		}
		a.Hooks = append(a.Hooks, h)
		picks = []uint32{}
		for i, trace := range traces {
			if h.Outcomes[i].Action == actionOn {
				picks = append(picks, trace.pick)
				recorded = recorded || h.Outcomes[i].Opens
			}
		}
		if len(picks) == 0 {
			break
		}
	}
	if len(a.Hooks) == 0 && a.Note == "" {
		a.Note = fmt.Sprintf("waggle has no program on %s: it does not see this packet there", d.name)
	}
	return a, nil
}

// ask runs a program for each endpoint that may be chosen; picks are those that it may be, nil if that is not known
// yet.
func (e *Explainer) ask(program string, d device, frame []byte, picks []uint32) ([]asked, error) {
	first := uint32(0)
	if len(picks) > 0 {
		first = picks[0]
	}
	trace, err := e.twin.Packet(program, d.index, frame, first)
	if err != nil {
		return nil, err
	}
	all := []asked{{first, trace}}
	if trace.Notes.Steps&bpf.TraceRandom == 0 {
		return all, nil
	}
	if picks == nil {
		for pick := range min(ScopeOf(trace).Count, maxCandidates) {
			picks = append(picks, pick)
		}
	}
	for _, pick := range picks[min(1, len(picks)):] {
		if trace, err = e.twin.Packet(program, d.index, frame, pick); err != nil {
			return nil, err
		}
		all = append(all, asked{pick, trace})
	}
	return all, nil
}

// ScopeOf is where the packet's endpoints are, as far as a frontend was found.
func ScopeOf(t *loader.Trace) bpf.Scope {
	if t.Opening.Internal {
		return t.Notes.Service.Internal
	}
	return t.Notes.Service.External
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"time"

	"github.com/waggle-lb/waggle/bpf"
)

// monitorPrinter writes events as rows, or as one object each. What is lost comes between them as an object, but not
// between rows: it goes where messages go.
type monitorPrinter struct {
	out      *output
	w        *bufio.Writer
	json     *json.Encoder // one line for each object, unlike the lists of other commands: there are many
	messages io.Writer
	columns  columns
}

func newMonitorPrinter(out *output, w, messages io.Writer) *monitorPrinter {
	p := &monitorPrinter{out: out, w: bufio.NewWriterSize(w, 1<<16), messages: messages}
	p.json = json.NewEncoder(p.w)
	return p
}

func (p *monitorPrinter) flush() error { return p.w.Flush() }

var monitorHeader = []string{"TIME", "EVENT", "HOOK", "DEVICE", "PROTOCOL", "SOURCE", "DESTINATION", "SERVICE", "BACKEND", "DETAILS"}

// begin says that the programs report from now on.
func (p *monitorPrinter) begin() {
	if !p.out.tabular() {
		return
	}
	// room for what is usual, so that columns stay where they are
	p.columns.widths = []int{15, 16, 10, 6, 8, 20, 20, 20, 16}
	_ = p.columns.write(p.w, [][]string{monitorHeader}) // the next flush returns the error
	_ = p.w.Flush()
}

func (p *monitorPrinter) object(o any) error {
	if p.out.format == "json" {
		return p.json.Encode(o)
	}
	return p.out.printNext(p.w, o)
}

func (p *monitorPrinter) event(e *monitorEvent) error {
	if !p.out.tabular() {
		return p.object(e)
	}
	return p.columns.write(p.w, [][]string{e.row()})
}

func (e *monitorEvent) row() []string {
	backend := "<none>"
	if e.Backend != nil {
		backend = e.Backend.String()
	}
	service := cmp.Or(e.Service, "<none>")
	if e.Port != "" {
		service += ":" + e.Port
	}
	return []string{e.Time.Local().Format("15:04:05.000000"), e.Event, e.Hook, cmp.Or(e.Device, "<none>"), e.Proto,
		e.end(e.Src), e.end(e.Dst), service, backend, cmp.Or(strings.Join(e.details(), ", "), "<none>")}
}

// end is one of the packet's. A socket that connects may have no address yet, nor a host that asks for one.
func (e *monitorEvent) end(a netip.AddrPort) string {
	switch {
	case a.Addr().IsUnspecified() && a.Port() == 0:
		return "<none>"
	case e.verdict == bpf.VerdictAnnounced: // which has no ports
		return a.Addr().String()
	}
	return a.String()
}

func (e *monitorEvent) details() (all []string) {
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if e.Command != "" {
		add("by %s (%d)", e.Command, e.PID)
	}
	if e.Path != "" {
		add("%s", e.Path)
	}
	if e.Choice != "" {
		add("chosen by %s", map[string]string{"affinity": "affinity", "random": "chance"}[e.Choice])
	}
	if e.SourceNAT {
		add("source %s", e.ToSrc)
	}
	switch e.verdict {
	case bpf.VerdictExpress, bpf.VerdictStack, bpf.VerdictSource, bpf.VerdictFlowClosed:
		add("to %s > %s", e.ToSrc, e.ToDst)
	}
	if e.Reset {
		add("by a reset")
	}
	if e.OutDevice != "" {
		add("by %s", e.OutDevice)
	}
	if len(e.Before) > 0 {
		add("%d bytes", e.Length)
		if e.TCPFlags != "" {
			add("%s", strings.ReplaceAll(e.TCPFlags, ",", "+"))
		}
	}
	return all
}

// monitorLosses are events that are not shown, by verdict.
type monitorLosses struct {
	Limited map[string]uint64 `json:"limited,omitempty"` // by --rate
	Full    map[string]uint64 `json:"full,omitempty"`    // they came faster than they were read
	Blind   string            `json:"blind,omitempty"`   // how long nothing was reported
}

func lossesBetween(before, now bpf.WatchMeter, blind time.Duration) (l monitorLosses) {
	since := func(a, b [bpf.VerdictCount]uint64) map[string]uint64 {
		out := map[string]uint64{}
		for v := range b {
			if b[v] != a[v] {
				out[bpf.VerdictName(bpf.Verdict(v))] = b[v] - a[v]
			}
		}
		return out
	}
	l.Limited, l.Full = since(before.Limited, now.Limited), since(before.Full, now.Full)
	if blind > 0 {
		l.Blind = blind.String()
	}
	return l
}

func (l monitorLosses) none() bool { return len(l.Limited) == 0 && len(l.Full) == 0 && l.Blind == "" }

func (l monitorLosses) String() string {
	var parts []string
	for v := range bpf.VerdictCount {
		name := bpf.VerdictName(v)
		if n := l.Limited[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s by --rate", n, name))
		}
		if n := l.Full[name]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s, too fast to be read", n, name))
		}
	}
	if l.Blind != "" {
		parts = append(parts, fmt.Sprintf("all of %s, in which this process did not run", l.Blind))
	}
	if len(parts) == 0 {
		return "nothing"
	}
	return strings.Join(parts, "; ")
}

func (p *monitorPrinter) losses(l monitorLosses) error {
	if !p.out.tabular() {
		return p.object(struct {
			Event string        `json:"event"`
			Lost  monitorLosses `json:"lost"`
		}{"lost", l})
	}
	if err := p.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.messages, "waggle: lost: %s\n", l)
	return err
}

func (p *monitorPrinter) summary(shown uint64, l monitorLosses) error {
	if !p.out.tabular() {
		return p.object(struct {
			Event string        `json:"event"`
			Shown uint64        `json:"shown"`
			Lost  monitorLosses `json:"lost"`
		}{"summary", shown, l})
	}
	if err := p.flush(); err != nil {
		return err
	}
	_, err := fmt.Fprintf(p.messages, "waggle: %d events shown; lost: %s\n", shown, l)
	return err
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	stdmaps "maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

type counterView struct {
	Hook    string `json:"hook"`
	Verdict string `json:"verdict"`
	Packets uint64 `json:"packets"`
	Bytes   uint64 `json:"bytes"`
}

type statusView struct {
	Running  bool           `json:"running"`
	Agent    *status.Status `json:"agent"`
	Counters []counterView  `json:"counters"`
}

func newStatus(g *globals) *cobra.Command {
	var out output
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show the state of the agent, its devices, its programs and its problems",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			view, err := readStatus(g)
			if err != nil {
				return err
			}
			if out.format == "json" || out.format == "yaml" {
				return out.print(cmd.OutOrStdout(), view, nil)
			}
			return view.write(cmd.OutOrStdout(), out.wide())
		},
	}
	out.addFlag(cmd)
	return cmd
}

func readStatus(g *globals) (*statusView, error) {
	agent, err := status.Read(g.runDir)
	if err != nil {
		return nil, err
	}
	view := &statusView{Agent: agent, Running: loader.Held(agent.PinDir)}
	counters, err := fromPins(g, func(p *loader.View) ([]maps.Counter, error) { return maps.ReadCounters(p) })
	if err != nil {
		return nil, err
	}
	view.Counters = viewCounters(counters)
	return view, nil
}

func viewCounters(counters []maps.Counter) []counterView {
	all := []counterView{}
	for _, c := range counters {
		all = append(all, counterView{bpf.HookName(c.Hook), bpf.VerdictName(c.Verdict), c.Packets, c.Bytes})
	}
	return all
}

func (v *statusView) write(w io.Writer, wide bool) error {
	a := v.Agent
	state := fmt.Sprintf("running (pid %d, since %s)", a.PID, a.Started.Format(time.RFC3339))
	if !v.Running {
		state = fmt.Sprintf("NOT RUNNING (last seen %s); the datapath keeps running", a.Written.Format(time.RFC3339))
	}
	synced := "not yet: the datapath still works with its earlier contents"
	if a.Proxy.Synced {
		synced = fmt.Sprintf("%d service ports, last sync %s", a.Proxy.Services, a.Proxy.LastSync.Format(time.RFC3339))
	}
	from := a.Source
	if b := a.Blind; b != nil {
		from += fmt.Sprintf("; BLIND since %s: %s", b.Since.Format(time.RFC3339), b.Why)
	}
	for _, line := range [][2]string{
		{"Agent", state}, {"Version", a.Version}, {"Node", a.Node}, {"Source", from}, {"Pins", a.PinDir},
		{"Synced", synced},
		{"Flows", flowCensus(a.Flows)},
		{"Names", namesLine(a.Names)},
		{"Members", memberLine(a)},
	} {
		if line[1] == "" {
			continue
		}
		if _, err := fmt.Fprintf(w, "%-10s%s\n", line[0]+":", line[1]); err != nil {
			return err
		}
	}
	for _, s := range v.sections(wide) {
		if _, err := fmt.Fprintf(w, "\n%s\n", s.title); err != nil {
			return err
		}
		if err := s.table.write(w); err != nil {
			return err
		}
	}
	return nil
}

// memberLine lists the other agents that announce addresses; "": there are none.
func memberLine(a *status.Status) string {
	var all []string
	for _, m := range a.Members {
		all = append(all, m.Name+" ("+m.State+")")
	}
	return strings.Join(all, ", ")
}

// section is a table of the status with its title.
type section struct {
	title string
	table table
}

func (v *statusView) sections(wide bool) []section {
	a := v.Agent
	all := []section{
		{"Devices", deviceTable(a, wide)}, {"Programs", linkTable(a, wide)}, {"Packets", counterTable(v.Counters)},
		{"Problems", problemTable(a)}, {"Notices", noticeTable(a)},
	}
	if wide {
		all = append(all, section{"Held", heldTable(a)})
	}
	return all
}

func deviceTable(a *status.Status, wide bool) table {
	t := table{
		header: []string{"DEVICE", "ROLE", "TC", "XDP", "EXPRESS", "SNAT ADDRESSES"},
		empty:  "No device has a role (--devices, --pod-devices).",
	}
	if wide {
		t.header = append(t.header, "IFINDEX")
	}
	for _, d := range a.Devices {
		var addrs []string
		for _, s := range []string{d.Addr4, d.Addr6} {
			if s != "" {
				addrs = append(addrs, s)
			}
		}
		row := []string{d.Name, string(d.Role), d.TC, d.XDP, fmt.Sprint(d.Express), orNone(addrs)}
		if wide {
			row = append(row, fmt.Sprint(d.Ifindex))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

func linkTable(a *status.Status, wide bool) table {
	t := table{header: []string{"HOOK", "AT", "KIND", "PROGRAM", "ATTACHED"}, empty: "No program is attached."}
	if wide {
		t.header = append(t.header, "LINK ID")
	}
	for _, l := range a.Links {
		row := []string{l.Hook, l.Device + l.Cgroup, l.Kind, fmt.Sprintf("%s (id %d)", l.Program, l.ProgramID), fmt.Sprint(l.Attached)}
		if wide {
			row = append(row, fmt.Sprint(l.LinkID))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

func counterTable(counters []counterView) table {
	t := table{header: []string{"HOOK", "VERDICT", "PACKETS", "BYTES"}, empty: "No packets yet."}
	for _, c := range counters {
		t.rows = append(t.rows, []string{c.Hook, c.Verdict, fmt.Sprint(c.Packets), fmt.Sprint(c.Bytes)})
	}
	return t
}

// problemTable lists all problems: of objects, of the source and of the node.
func problemTable(a *status.Status) table {
	t := table{header: []string{"WHERE", "OBJECT", "FIELD", "MESSAGE"}, empty: "None."}
	for _, p := range a.Problems {
		where := p.File
		if p.Document > 0 {
			where += fmt.Sprintf(" (document %d)", p.Document)
		}
		t.rows = append(t.rows, []string{where, p.Object, p.Field, strings.ReplaceAll(p.Message, "\n", " ")})
	}
	for _, message := range append(a.Proxy.Failures, a.Warnings...) {
		t.rows = append(t.rows, []string{"agent", "", "", message})
	}
	return t
}

// heldTable lists the Services that the deletion brake holds. The problems mention that there are any.
func heldTable(a *status.Status) table {
	t := table{header: []string{"SERVICE"}, empty: "None."}
	for _, name := range a.Held {
		t.rows = append(t.rows, []string{name})
	}
	return t
}

// noticeTable lists notices: facts that are no problem, but may explain unexpected behaviour.
func noticeTable(a *status.Status) table {
	t := table{header: []string{"MESSAGE"}, empty: "None."}
	for _, message := range a.Notices {
		t.rows = append(t.rows, []string{message})
	}
	return t
}

// namesLine says where names are answered, and how; "" if they are not.
func namesLine(n *status.Names) string {
	if n == nil {
		return ""
	}
	at, by := "not answered (see Problems)", "no resolver"
	if len(n.Addresses) > 0 {
		at = "answered at " + strings.Join(n.Addresses, ", ")
	}
	if len(n.Resolvers) > 0 {
		by = strings.Join(n.Resolvers, ", ")
	}
	var answers []string
	for _, code := range slices.Sorted(stdmaps.Keys(n.Answers)) {
		answers = append(answers, fmt.Sprintf("%s %d", code, n.Answers[code]))
	}
	queries := n.Queries["udp"] + n.Queries["tcp"]
	return fmt.Sprintf("of %s, %s; %d queries, %d passed on to %s; answers: %s", n.Domain, at, queries, n.Forwarded, by, orNone(answers))
}

func flowCensus(c status.FlowCensus) string {
	return fmt.Sprintf("IPv4 %d confirmed, %d unconfirmed; IPv6 %d confirmed, %d unconfirmed records; %d expired",
		c.IPv4.Confirmed, c.IPv4.Unconfirmed, c.IPv6.Confirmed, c.IPv6.Unconfirmed, c.Expired)
}

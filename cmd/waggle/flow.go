// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"net/netip"
	"reflect"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

type flowView struct {
	Proto   string         `json:"protocol"`
	Seen    string         `json:"seen"` // where its packets are: outside, pod or leaving
	Src     netip.AddrPort `json:"source"`
	Dst     netip.AddrPort `json:"destination"`
	ToSrc   netip.AddrPort `json:"toSource"`
	ToDst   netip.AddrPort `json:"toDestination"`
	Path    string         `json:"path"`
	State   []string       `json:"state"`
	Idle    string         `json:"idle"`
	Service string         `json:"service"`
	Backend uint32         `json:"backend"`
	Ifindex int            `json:"ifindex,omitempty"`
	NextHop string         `json:"nextHop,omitempty"`
	idle    time.Duration
}

type flowFilter struct {
	service string
	address string
	limit   int
}

// flowID identifies a record.
type flowID struct {
	proto, seen string
	src, dst    netip.AddrPort
}

func newFlow(g *globals) *cobra.Command {
	var out output
	var filter flowFilter
	var again watchFlags
	sorted := sortFlag[flowView]{keys: flowOrders}
	list := &cobra.Command{
		Use:   "list",
		Short: "List flow records: two for each flow, or three if the kernel routes it and its source is rewritten",
		Long: "List flow records: two for each flow, or three if the kernel routes it and its source is rewritten.\n\n" +
			"With --watch, the command prints a record again when its rewrite, path, state, service or backend has\n" +
			"changed, and once more when it is gone. Its idle time and next hop don't count as changes.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if again.watch {
				w := watch[flowID, flowView]{
					out: &out, events: again.events, limit: filter.limit, order: sorted.order(),
					read:  func(fn func(flowView) bool) error { return openFlows(g, filter, fn) },
					id:    func(f flowView) flowID { return flowID{f.Proto, f.Seen, f.Src, f.Dst} },
					same:  sameFlow,
					table: flowTable,
				}
				return w.run(cmd)
			}
			flows := selection[flowView]{limit: filter.limit, order: sorted.order(), objects: []flowView{}}
			if err := openFlows(g, filter, flows.add); err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), flows.all(), func(wide bool) table { return flowTable(flows.all(), wide) })
		},
	}
	out.addFlag(list)
	again.add(list)
	sorted.add(list, "", "order by a column, before --limit applies (default: the order of the table)")
	filter.add(list)
	return newGroup("flow", []string{"flows"}, "Show the flows that the datapath follows", list)
}

// add comes after output.addFlag.
func (f *flowFilter) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.service, "service", "", "only flows of this service, as namespace/name")
	cmd.Flags().StringVar(&f.address, "address", "", "only records that contain this address")
	cmd.Flags().IntVar(&f.limit, "limit", 1000, "maximum number of records; 0 for all")
	alsoCheck(cmd, func() error {
		if _, err := netip.ParseAddr(f.address); f.address != "" && err != nil {
			return fmt.Errorf("--address %s: not an IP address", f.address)
		}
		if f.limit < 0 {
			return fmt.Errorf("--limit %d: a number of records, or 0 for all", f.limit)
		}
		return nil
	})
}

// openFlows calls fn, until it returns false, with each record that passes the filter. fn has to apply the limit.
func openFlows(g *globals, filter flowFilter, fn func(flowView) bool) error {
	_, err := fromPins(g, func(p *loader.View) (struct{}, error) { return struct{}{}, readFlows(p, filter, fn) })
	return err
}

func readFlows(p *loader.View, filter flowFilter, fn func(flowView) bool) error {
	names, err := maps.NewNames(p).All()
	if err != nil {
		return err
	}
	now, hz, err := p.Jiffies()
	if err != nil {
		return err
	}
	addr, _ := netip.ParseAddr(filter.address) // checked with the flags
	for _, family := range maps.Families {
		again := true
		err := maps.Flows(p, family, func(f maps.Flow) bool {
			view := viewFlow(f, names[f.Service], now, hz)
			if filter.service != "" && filter.service != view.Service || addr.IsValid() && !mentions(f, addr) {
				return true
			}
			again = fn(view)
			return again
		})
		if err != nil || !again {
			return err
		}
	}
	return nil
}

// flowOrders are the columns that records can be sorted by.
var flowOrders = []sortKey[flowView]{
	{"protocol", func(a, b flowView) int { return cmp.Compare(a.Proto, b.Proto) }},
	{"source", func(a, b flowView) int { return a.Src.Compare(b.Src) }},
	{"destination", func(a, b flowView) int { return a.Dst.Compare(b.Dst) }},
	{"to-destination", func(a, b flowView) int { return a.ToDst.Compare(b.ToDst) }},
	{"path", func(a, b flowView) int { return cmp.Compare(a.Path, b.Path) }},
	{"idle", func(a, b flowView) int { return cmp.Compare(a.idle, b.idle) }},
	{"service", func(a, b flowView) int { return cmp.Compare(a.Service, b.Service) }},
}

// sameFlow reports whether a record is unchanged, apart from what each packet and each route may change.
func sameFlow(a, b flowView) bool {
	for _, f := range []*flowView{&a, &b} {
		f.Idle, f.idle, f.Ifindex, f.NextHop = "", 0, 0, ""
	}
	return reflect.DeepEqual(a, b)
}

func mentions(f maps.Flow, a netip.Addr) bool {
	for _, ap := range []netip.AddrPort{f.Key.Src, f.Key.Dst, f.To.Src, f.To.Dst} {
		if ap.Addr() == a {
			return true
		}
	}
	return false
}

func viewFlow(f maps.Flow, name maps.Name, now, hz uint32) flowView {
	ticks := max(int32(now-f.LastSeen), 0) // a packet may have come after we read the clock
	idle := time.Duration(ticks) * time.Second / time.Duration(hz)
	v := flowView{
		Proto: maps.ProtoName(f.Key.Proto), Seen: bpf.ZoneName(f.Key.Zone),
		Src: f.Key.Src, Dst: f.Key.Dst, ToSrc: f.To.Src, ToDst: f.To.Dst,
		Path: flowPath(f.Flags), State: flowState(f.State),
		Idle:    idle.Round(time.Second).String(),
		Service: serviceName(name),
		Backend: f.Backend,
		idle:    idle,
	}
	if f.NextHop.Ifindex != 0 {
		v.Ifindex, v.NextHop = f.NextHop.Ifindex, f.NextHop.MAC.String()
	}
	return v
}

func flowPath(flags uint16) string {
	reply := ""
	if flags&bpf.FlowReply != 0 {
		reply = " reply"
	}
	switch {
	case flags&bpf.FlowForeign != 0:
		return "foreign" + reply
	case flags&bpf.FlowSplitSource != 0:
		return "split source"
	case flags&bpf.FlowSplit != 0:
		return "split" + reply
	case flags&bpf.FlowTurn != 0:
		return "turn" + reply
	case flags&bpf.FlowExpress != 0:
		return "express" + reply
	}
	return "stack" + reply
}

func flowState(state uint32) []string {
	out := []string{}
	for _, s := range []struct {
		bit  uint32
		name string
	}{
		{bpf.StateAnswered, "answered"}, {bpf.StateConfirmed, "confirmed"},
		{bpf.StateFinClient, "fin-client"}, {bpf.StateFinBackend, "fin-backend"},
		{bpf.StateReset, "reset"},
	} {
		if state&s.bit != 0 {
			out = append(out, s.name)
		}
	}
	return out
}

func flowTable(flows []flowView, wide bool) table {
	t := table{
		header: []string{"PROTOCOL", "SEEN", "SOURCE", "DESTINATION", "TO SOURCE", "TO DESTINATION", "PATH", "STATE", "IDLE"},
		empty:  "No flows.",
	}
	if wide {
		t.header = append(t.header, "SERVICE", "BACKEND", "IFINDEX", "NEXT HOP")
	}
	for _, f := range flows {
		row := []string{f.Proto, f.Seen, f.Src.String(), f.Dst.String(), f.ToSrc.String(), f.ToDst.String(),
			f.Path, orNone(f.State), f.Idle}
		if wide {
			row = append(row, cmp.Or(f.Service, "<none>"), fmt.Sprint(f.Backend), fmt.Sprint(f.Ifindex), strings.TrimSpace(f.NextHop))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

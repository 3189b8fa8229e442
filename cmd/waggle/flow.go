// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"net/netip"
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
}

type flowFilter struct {
	service string
	addr    string
	limit   int
}

func newFlow(g *globals) *cobra.Command {
	var out output
	var filter flowFilter
	list := &cobra.Command{
		Use:   "list",
		Short: "List flow records: two for each flow, or three if its source is rewritten on its way through the stack",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			flows, err := fromPins(g, func(p *loader.View) ([]flowView, error) { return readFlows(p, filter) })
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), flows, func(wide bool) table { return flowTable(flows, wide) })
		},
	}
	out.addFlag(list)
	list.Flags().StringVar(&filter.service, "service", "", "only flows of this service, as namespace/name")
	list.Flags().StringVar(&filter.addr, "address", "", "only records that contain this address")
	list.Flags().IntVar(&filter.limit, "limit", 1000, "show at most so many records; 0 for all")
	return newGroup("flow", []string{"flows"}, "Show the flows that the datapath follows", list)
}

func readFlows(p *loader.View, filter flowFilter) ([]flowView, error) {
	names, err := maps.NewNames(p).All()
	if err != nil {
		return nil, err
	}
	now, hz, err := p.Jiffies()
	if err != nil {
		return nil, err
	}
	var addr netip.Addr
	if filter.addr != "" {
		if addr, err = netip.ParseAddr(filter.addr); err != nil {
			return nil, fmt.Errorf("--address %s: not an IP address", filter.addr)
		}
	}
	out := []flowView{}
	for _, family := range maps.Families {
		err := maps.Flows(p, family, func(f maps.Flow) bool {
			view := viewFlow(f, names[f.Service], now, hz)
			if filter.service != "" && filter.service != view.Service || addr.IsValid() && !mentions(f, addr) {
				return true
			}
			out = append(out, view)
			return !filter.full(out)
		})
		if err != nil {
			return nil, err
		}
		if filter.full(out) {
			break
		}
	}
	return out, nil
}

func (f flowFilter) full(out []flowView) bool { return f.limit > 0 && len(out) >= f.limit }

func mentions(f maps.Flow, a netip.Addr) bool {
	for _, ap := range []netip.AddrPort{f.Key.Src, f.Key.Dst, f.To.Src, f.To.Dst} {
		if ap.Addr() == a {
			return true
		}
	}
	return false
}

func viewFlow(f maps.Flow, name maps.Name, now, hz uint32) flowView {
	idle := max(int32(now-f.LastSeen), 0) // a packet may have come after we read the clock
	v := flowView{
		Proto: maps.ProtoName(f.Key.Proto), Seen: bpf.ZoneName(f.Key.Zone),
		Src: f.Key.Src, Dst: f.Key.Dst, ToSrc: f.To.Src, ToDst: f.To.Dst,
		Path: flowPath(f.Flags), State: flowState(f.State),
		Idle:    (time.Duration(idle) * time.Second / time.Duration(hz)).Round(time.Second).String(),
		Service: serviceName(name),
		Backend: f.Backend,
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

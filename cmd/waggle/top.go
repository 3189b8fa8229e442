// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

func newTop(g *globals) *cobra.Command {
	cmd := topServices(g, "top")
	cmd.Long = cmd.Short + ", repeatedly, until interrupted.\n\n" +
		"On a terminal each table replaces the one before. `waggle top` alone is `waggle top services`."
	cmd.AddCommand(topServices(g, "services"), topBackends(g), topClients(g))
	return cmd
}

// top is a table that is measured repeatedly.
type top[T any] struct {
	out      output
	sorted   sortFlag[T]
	interval time.Duration
	limit    int
	once     bool

	// read returns the rows by what was counted from one time to the next.
	read  func(p *loader.View, before, now *counters) ([]T, error)
	table func(rows []T, wide bool) table
}

// topServiceRow is a service port of one family.
type topServiceRow struct {
	Namespace string `json:"namespace"`
	Service   string `json:"service"`
	Port      string `json:"port,omitempty"`
	Proto     string `json:"protocol"`
	IPFamily  string `json:"ipFamily"`
	traffic
}

type topBackendRow struct {
	ID      uint32         `json:"id"`
	Service string         `json:"service"`
	Port    string         `json:"port,omitempty"`
	Address netip.AddrPort `json:"address"`
	Proto   string         `json:"protocol"`
	traffic
}

// topClientRow is a client by its address. It does not count sockets' connections, which have no records.
type topClientRow struct {
	Client      netip.Addr `json:"client"`
	Flows       int        `json:"flows"`       // that are not over
	Unconfirmed int        `json:"unconfirmed"` // of these
	Services    int        `json:"services"`    // service ports that they are to
	Backends    int        `json:"backends"`
}

func topServices(g *globals, use string) *cobra.Command {
	t := &top[topServiceRow]{read: readTopServices, table: topServiceTable, sorted: sortFlag[topServiceRow]{keys: append(
		trafficOrders(func(r topServiceRow) traffic { return r.traffic }),
		sortKey[topServiceRow]{"failed", func(a, b topServiceRow) int {
			return cmp.Compare(b.Rates.Refused+b.Rates.Dropped, a.Rates.Refused+a.Rates.Dropped)
		}},
		sortKey[topServiceRow]{"name", func(a, b topServiceRow) int {
			return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Port, b.Port))
		}},
	)}}
	return t.command(g, use, "Show which services have most traffic", "bytes")
}

func topBackends(g *globals) *cobra.Command {
	t := &top[topBackendRow]{read: readTopBackends, table: topBackendTable, sorted: sortFlag[topBackendRow]{keys: append(
		trafficOrders(func(r topBackendRow) traffic { return r.traffic }),
		sortKey[topBackendRow]{"name", func(a, b topBackendRow) int {
			return cmp.Or(cmp.Compare(a.Service, b.Service), a.Address.Compare(b.Address))
		}},
	)}}
	return t.command(g, "backends", "Show which backends have most traffic", "bytes")
}

func topClients(g *globals) *cobra.Command {
	t := &top[topClientRow]{read: readTopClients, table: topClientTable, sorted: sortFlag[topClientRow]{keys: []sortKey[topClientRow]{
		{"flows", func(a, b topClientRow) int { return cmp.Compare(b.Flows, a.Flows) }},
		{"unconfirmed", func(a, b topClientRow) int { return cmp.Compare(b.Unconfirmed, a.Unconfirmed) }},
		{"services", func(a, b topClientRow) int { return cmp.Compare(b.Services, a.Services) }},
		{"client", func(a, b topClientRow) int { return a.Client.Compare(b.Client) }},
	}}}
	return t.command(g, "clients", "Show which clients have most flows, from the flow table", "flows")
}

// trafficOrders sort the busiest first.
func trafficOrders[T any](of func(T) traffic) []sortKey[T] {
	by := func(name string, value func(traffic) float64) sortKey[T] {
		return sortKey[T]{name, func(a, b T) int { return cmp.Compare(value(of(b)), value(of(a))) }}
	}
	return []sortKey[T]{
		by("bytes", func(t traffic) float64 { return t.Rates.BytesToBackend + t.Rates.BytesToClient }),
		by("packets", func(t traffic) float64 { return t.Rates.PacketsToBackend + t.Rates.PacketsToClient }),
		by("new", func(t traffic) float64 { return t.Rates.Opened }),
		by("active", func(t traffic) float64 { return float64(t.Active) }),
	}
}

func (t *top[T]) command(g *globals, use, short, byDefault string) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Short: short, Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			_, err := fromPins(g, func(p *loader.View) (struct{}, error) { return struct{}{}, t.run(ctx, p, cmd.OutOrStdout()) })
			return err
		},
	}
	t.out.addFlag(cmd)
	t.sorted.add(cmd, byDefault, "order by a column")
	cmd.Flags().DurationVar(&t.interval, "interval", 2*time.Second, "time over which rates are measured, at least 1s")
	cmd.Flags().IntVarP(&t.limit, "number", "n", 20, "maximum number of rows; 0 for all. On a terminal, no more than fit")
	cmd.Flags().BoolVar(&t.once, "once", false, "print one table, then end")
	alsoCheck(cmd, func() error {
		if t.interval < rateTime {
			return fmt.Errorf("--interval %v: at least %v: the datapath adds up once a second", t.interval, rateTime)
		}
		if t.limit < 0 {
			return fmt.Errorf("--number %d: a number of rows, or 0 for all", t.limit)
		}
		return nil
	})
	return cmd
}

// run measures until ctx is done, which is no error.
func (t *top[T]) run(ctx context.Context, p *loader.View, w io.Writer) error {
	before, err := readCounters(p)
	if err != nil {
		return err
	}
	for first := true; ; first = false {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(t.interval):
		}
		now, err := readCounters(p)
		if err != nil {
			return err
		}
		rows, err := t.read(p, before, now)
		if err != nil {
			return err
		}
		before = now
		if err := t.print(w, rows, first); err != nil || t.once {
			return err
		}
	}
}

func (t *top[T]) print(w io.Writer, rows []T, first bool) error {
	height := 0
	if t.out.tabular() && !t.once {
		height = terminalHeight(w)
	}
	shown := selection[T]{order: t.sorted.order(), limit: t.limit}
	if fit := height - 2; fit > 0 && (t.limit == 0 || t.limit > fit) {
		shown.limit = fit
	}
	for _, row := range rows {
		if !shown.add(row) {
			break
		}
	}
	list := append([]T{}, shown.all()...)
	if !t.out.tabular() {
		return t.out.printNext(w, list)
	}
	var text bytes.Buffer
	switch {
	case height > 0:
		text.WriteString("\x1b[H\x1b[2J") // to the first line, and nothing on the screen: ECMA-48, CUP and ED
	case !first:
		text.WriteByte('\n')
	}
	if err := t.table(list, t.out.wide()).write(&text); err != nil {
		return err
	}
	_, err := w.Write(text.Bytes()) // at once, so that nothing flickers
	return err
}

// terminalHeight returns the height in lines; 0 if w is no terminal.
func terminalHeight(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 0
	}
	return int(size.Row)
}

func readTopServices(p *loader.View, before, now *counters) ([]topServiceRow, error) {
	names, err := maps.NewNames(p).All()
	if err != nil {
		return nil, err
	}
	var rows []topServiceRow
	for id, n := range names {
		rows = append(rows, topServiceRow{n.Namespace, n.Name, n.Port, maps.ProtoName(n.Proto), familyName(n.Family), now.service(id, before)})
	}
	return rows, nil
}

func readTopBackends(p *loader.View, before, now *counters) ([]topBackendRow, error) {
	backends, err := readBackends(p)
	if err != nil {
		return nil, err
	}
	var rows []topBackendRow
	for _, b := range backends {
		rows = append(rows, topBackendRow{b.ID, b.Service, b.Port, b.Address, b.Proto, now.backend(b.ID, before)})
	}
	return rows, nil
}

// clientFlows counts the flows of a client.
type clientFlows struct {
	row                topClientRow
	services, backends map[uint32]bool
}

func readTopClients(p *loader.View, _, _ *counters) ([]topClientRow, error) {
	clients := map[netip.Addr]*clientFlows{}
	for _, family := range maps.Families {
		err := maps.Flows(p, family, func(f maps.Flow) bool {
			if f.Service == 0 || f.Flags&(bpf.FlowReply|bpf.FlowSplitSource|bpf.FlowForeign) != 0 || f.Closed() {
				return true
			}
			c := clients[f.Key.Src.Addr()]
			if c == nil {
				c = &clientFlows{topClientRow{Client: f.Key.Src.Addr()}, map[uint32]bool{}, map[uint32]bool{}}
				clients[c.row.Client] = c
			}
			c.row.Flows++
			if !f.Confirmed() {
				c.row.Unconfirmed++
			}
			c.services[f.Service], c.backends[f.Backend] = true, true
			return true
		})
		if err != nil {
			return nil, err
		}
	}
	var rows []topClientRow
	for _, c := range clients {
		c.row.Services, c.row.Backends = len(c.services), len(c.backends)
		rows = append(rows, c.row)
	}
	return rows, nil
}

func topServiceTable(rows []topServiceRow, wide bool) table {
	t := table{header: []string{"NAMESPACE", "SERVICE", "PORT", "PROTOCOL", "IP FAMILY"}, empty: "No services in the datapath."}
	t.header = append(append(append(t.header, trafficColumns...), failureColumns...), "CONNECT")
	for _, r := range rows {
		row := append([]string{r.Namespace, r.Service, cmp.Or(r.Port, "<unnamed>"), r.Proto, r.IPFamily}, r.cells()...)
		t.rows = append(t.rows, append(append(row, r.failures()...), r.connect()))
	}
	return t
}

func topBackendTable(rows []topBackendRow, wide bool) table {
	t := table{header: []string{"SERVICE", "PORT", "PROTOCOL", "ADDRESS"}, empty: "No backends in the datapath."}
	t.header = append(append(t.header, trafficColumns...), "CONNECT")
	for _, r := range rows {
		row := append([]string{cmp.Or(r.Service, "<none>"), cmp.Or(r.Port, "<unnamed>"), r.Proto, r.Address.String()}, r.cells()...)
		t.rows = append(t.rows, append(row, r.connect()))
	}
	return t
}

func topClientTable(rows []topClientRow, wide bool) table {
	t := table{header: []string{"CLIENT", "FLOWS", "UNCONFIRMED", "SERVICES", "BACKENDS"}, empty: "No flows."}
	for _, r := range rows {
		t.rows = append(t.rows, []string{r.Client.String(), fmt.Sprint(r.Flows), fmt.Sprint(r.Unconfirmed), fmt.Sprint(r.Services), fmt.Sprint(r.Backends)})
	}
	return t
}

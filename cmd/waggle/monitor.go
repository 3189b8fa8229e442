// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
)

type monitorFlags struct {
	filter   monitorFilter
	pcap     string
	rate     uint32
	duration time.Duration
	count    uint64
}

func newMonitor(g *globals) *cobra.Command {
	var out output
	var f monitorFlags
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Show what the datapath does while it does it: flows that open and close, refusals, drops, packets",
		Long: `Show what the datapath does, as it does it: flows that are opened, confirmed and closed, what is refused or
dropped and why, and the calls of processes that are connected to a service. The filters are applied in the kernel.

While it runs, the programs report to it; that is all it changes, and it takes write access to the maps that say
so (watching, watch_slots, watchers, watched, watch_meters). Up to four monitors run at one time.`,
		Example: `  waggle monitor --service default/web
  waggle monitor --drops --client 192.168.1.0/24
  waggle monitor --service default/web --pcap web.pcapng --duration 10s`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fromPins(g, func(v *loader.View) (struct{}, error) {
				return struct{}{}, f.run(cmd.Context(), newMonitorPrinter(&out, cmd.OutOrStdout(), cmd.ErrOrStderr()), v)
			})
			return err
		},
	}
	out.addFlag(cmd)
	flags := cmd.Flags()
	flags.StringVar(&f.filter.service, "service", "", "only this service, as NAMESPACE/NAME")
	flags.StringVar(&f.filter.backend, "backend", "", "only this endpoint, as address or address:port")
	flags.StringVar(&f.filter.client, "client", "", "only events with this address, or one of this network, as source or destination")
	flags.StringSliceVar(&f.filter.verdicts, "verdict", nil, "only these verdicts; `waggle status` shows their names")
	flags.BoolVar(&f.filter.drops, "drops", false, "only drops")
	flags.BoolVar(&f.filter.packets, "packets", false, "also each packet at each hook, before and after its rewrite")
	flags.StringVar(&f.pcap, "pcap", "", "write packets to this pcapng file, with comments; implies --packets")
	flags.Uint32Var(&f.rate, "rate", 1000, "maximum number of events of each verdict a second; 0 for all")
	flags.DurationVar(&f.duration, "duration", 0, "end after this time (default: when interrupted)")
	flags.Uint64Var(&f.count, "count", 0, "end after this number of events (default: when interrupted)")
	alsoCheck(cmd, f.check)
	return cmd
}

// check finds invalid flags before the command opens anything.
func (f *monitorFlags) check() error {
	if f.duration < 0 {
		return fmt.Errorf("--duration %s: want a time, as 10s, or 0 for no end", f.duration)
	}
	f.filter.packets = f.filter.packets || f.pcap != ""
	return f.filter.check()
}

// monitor is a running `waggle monitor`.
type monitor struct {
	flags   *monitorFlags
	names   *monitorNames
	watcher *loader.Watcher
	print   *monitorPrinter
	capture *capture // nil: none is written
	shown   uint64
	meter   bpf.WatchMeter // the losses at the last report
	blind   time.Duration
}

func (f *monitorFlags) run(ctx context.Context, printer *monitorPrinter, v *loader.View) (err error) {
	m := monitor{flags: f, names: &monitorNames{view: v}, print: printer}
	if err := m.names.refresh(); err != nil {
		return err
	}
	opts, err := f.filter.options(m.names)
	if err != nil {
		return err
	}
	if f.pcap != "" {
		if m.capture, err = newCapture(f.pcap); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.capture.close()) }()
	}
	opts.Rate = f.rate
	// before the lease: a signal that ends the process would leave it in force
	ctx, stop := signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
	defer stop()
	if m.watcher, err = v.Watch(opts); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.watcher.Close()) }()
	if f.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	m.print.begin()
	if err := m.follow(ctx); err != nil {
		return err
	}
	return m.end()
}

const (
	// renewEvery is how often the lease is renewed.
	renewEvery = time.Second
	// pollEvery limits how long the end of a context goes unnoticed, and how long output stays in the buffer.
	pollEvery = 100 * time.Millisecond
)

// follow shows events until the context or the count ends it.
func (m *monitor) follow(ctx context.Context) error {
	keeper := time.NewTicker(renewEvery)
	defer keeper.Stop()
	var record ringbuf.Record
	for !m.done() && ctx.Err() == nil {
		select {
		case <-keeper.C:
			if err := m.keep(); err != nil {
				return err
			}
		default:
		}
		left, err := m.watcher.Read(&record, pollEvery)
		if err == nil {
			err = m.show(record.RawSample)
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err, left = nil, 0
		}
		if err == nil && left == 0 {
			err = m.flush()
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (m *monitor) done() bool { return m.flags.count > 0 && m.shown >= m.flags.count }

func (m *monitor) show(sample []byte) error {
	e, err := m.names.event(sample)
	if err != nil {
		return err
	}
	m.shown++
	if m.capture != nil {
		if err := m.capture.write(e); err != nil {
			return err
		}
	}
	return m.print.event(e)
}

func (m *monitor) flush() error {
	if m.capture != nil {
		if err := m.capture.flush(); err != nil {
			return err
		}
	}
	return m.print.flush()
}

// keep renews the lease, updates the ids that the filter names, and reports losses.
func (m *monitor) keep() error {
	blind, err := m.watcher.Renew()
	if err != nil {
		return err
	}
	m.blind += blind
	if err := m.names.refresh(); err != nil {
		return err
	}
	services, backends := m.flags.filter.ids(m.names)
	if err := m.watcher.SetIDs(services, backends); err != nil {
		return err
	}
	return m.losses(blind)
}

// losses reports what was lost since the last report.
func (m *monitor) losses(blind time.Duration) error {
	now, err := m.watcher.Meter()
	if err != nil {
		return err
	}
	l := lossesBetween(m.meter, now, blind)
	m.meter = now
	if l.none() {
		return nil
	}
	return m.print.losses(l)
}

// end shows what is left, and a summary.
func (m *monitor) end() error {
	if err := m.watcher.Stop(); err != nil {
		return err
	}
	var record ringbuf.Record
	for !m.done() {
		_, err := m.watcher.Read(&record, 0)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			break
		}
		if err == nil {
			err = m.show(record.RawSample)
		}
		if err != nil {
			return err
		}
	}
	meter, err := m.watcher.Meter()
	if err != nil {
		return err
	}
	if err := m.print.summary(m.shown, lossesBetween(bpf.WatchMeter{}, meter, m.blind)); err != nil {
		return err
	}
	return m.flush()
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// traffic has the counters of a service port or a backend, and their rates.
type traffic struct {
	Active  uint32     `json:"activeFlows"` // at the agent's last walk; sockets' are not known
	Counted count      `json:"counters"`    // since it has its id
	Rates   *rateView  `json:"rates,omitempty"`
	Wait    *waitsView `json:"connect,omitempty"` // nil: no SYN was answered
}

// count has the counters that only grow.
type count struct {
	Opened           uint64            `json:"openedFlows"` // and sockets that were connected
	PacketsToBackend uint64            `json:"packetsToBackend"`
	BytesToBackend   uint64            `json:"bytesToBackend"` // from the IP header on
	PacketsToClient  uint64            `json:"packetsToClient"`
	BytesToClient    uint64            `json:"bytesToClient"`
	Refused          uint64            `json:"refused,omitempty"`
	Dropped          map[string]uint64 `json:"dropped,omitempty"` // by reason
}

// rateView has the rates, per second.
type rateView struct {
	Opened           float64 `json:"openedFlows"`
	PacketsToBackend float64 `json:"packetsToBackend"`
	BytesToBackend   float64 `json:"bytesToBackend"`
	PacketsToClient  float64 `json:"packetsToClient"`
	BytesToClient    float64 `json:"bytesToClient"`
	Refused          float64 `json:"refused"`
	Dropped          float64 `json:"dropped"`
}

// waitsView has the times from SYN to SYN-ACK.
type waitsView struct {
	Count   uint64  `json:"count"`
	Mean    float64 `json:"meanSeconds"`
	Longest float64 `json:"longestSeconds"` // the end of the last bucket that is not empty; -1: it has no end
}

// counters are all counters at one time.
type counters struct {
	at       time.Time
	services map[uint32]maps.ServiceStats
	backends map[uint32]maps.FlowStats
}

func readCounters(p maps.Provider) (*counters, error) {
	c := &counters{at: time.Now()}
	var err error
	if c.services, err = maps.ReadServiceStats(p); err != nil {
		return nil, err
	}
	c.backends, err = maps.ReadBackendStats(p)
	return c, err
}

// rateTime is the default time over which rates are measured.
const rateTime = time.Second

// readTwice returns the counters of now and of before, for rates. Without an earlier read, it reads them twice, a
// second apart.
func readTwice(p maps.Provider, past **counters) (before, now *counters, err error) {
	if *past == nil {
		if *past, err = readCounters(p); err != nil {
			return nil, nil, err
		}
		time.Sleep(rateTime)
	}
	now, err = readCounters(p)
	before, *past = *past, now
	return before, now, err
}

// measureServices fills in the counters of services, and their rates.
func measureServices(p maps.Provider, services []serviceView, past **counters) error {
	before, now, err := readTwice(p, past)
	if err != nil {
		return err
	}
	for i := range services {
		for j := range services[i].Ports {
			port := &services[i].Ports[j]
			counted := now.service(port.ID, before)
			port.counted = &counted
			for k := range port.Backends {
				counted := now.backend(port.Backends[k].ID, before)
				port.Backends[k].counted = &counted
			}
		}
	}
	return nil
}

// measureBackends does the same for backends.
func measureBackends(p maps.Provider, backends []backendView) error {
	var past *counters
	before, now, err := readTwice(p, &past)
	if err != nil {
		return err
	}
	for i := range backends {
		counted := now.backend(backends[i].ID, before)
		backends[i].counted = &counted
	}
	return nil
}

// service returns the counters of one service, and its rates since before.
func (c *counters) service(id uint32, before *counters) traffic {
	s := c.services[id]
	t := trafficFrom(s.FlowStats)
	t.Counted.Refused = s.Refused
	for reason, n := range s.Dropped {
		if t.Counted.Dropped == nil {
			t.Counted.Dropped = map[string]uint64{}
		}
		t.Counted.Dropped[bpf.VerdictName(reason)] = n
	}
	past, span := before.services[id], c.at.Sub(before.at)
	t.Rates = ratesBetween(past.FlowStats, s.FlowStats, span)
	t.Rates.Refused = perSecond(past.Refused, s.Refused, span)
	t.Rates.Dropped = perSecond(past.DroppedTotal(), s.DroppedTotal(), span)
	return t
}

func (c *counters) backend(id uint32, before *counters) traffic {
	t := trafficFrom(c.backends[id])
	t.Rates = ratesBetween(before.backends[id], c.backends[id], c.at.Sub(before.at))
	return t
}

func trafficFrom(s maps.FlowStats) traffic {
	t := traffic{Active: s.Active, Counted: count{
		Opened: s.Opened, PacketsToBackend: s.ToBackend.Packets, BytesToBackend: s.ToBackend.Bytes,
		PacketsToClient: s.ToClient.Packets, BytesToClient: s.ToClient.Bytes,
	}}
	w := waitsView{}
	for i, n := range s.Connect {
		if w.Count += n; n == 0 {
			continue
		}
		w.Longest = float64(maps.ConnectBound(i)) / 1e6
		if i == len(s.Connect)-1 {
			w.Longest = -1
		}
	}
	if w.Count > 0 {
		w.Mean = float64(s.ConnectTime) / 1e6 / float64(w.Count)
		t.Wait = &w
	}
	return t
}

func ratesBetween(past, now maps.FlowStats, span time.Duration) *rateView {
	return &rateView{
		Opened:           perSecond(past.Opened, now.Opened, span),
		PacketsToBackend: perSecond(past.ToBackend.Packets, now.ToBackend.Packets, span),
		BytesToBackend:   perSecond(past.ToBackend.Bytes, now.ToBackend.Bytes, span),
		PacketsToClient:  perSecond(past.ToClient.Packets, now.ToClient.Packets, span),
		BytesToClient:    perSecond(past.ToClient.Bytes, now.ToClient.Bytes, span),
	}
}

// perSecond returns the rate of a counter. A counter that is less than before belongs to a later owner of the id, and
// began at zero.
func perSecond(past, now uint64, span time.Duration) float64 {
	if now < past {
		past = 0
	}
	return float64(now-past) / max(span.Seconds(), 1e-9)
}

// plus returns the sum of two ports.
func (t traffic) plus(o traffic) traffic {
	t.Active += o.Active
	if t.Rates == nil || o.Rates == nil {
		t.Rates = cmp.Or(t.Rates, o.Rates)
		return t
	}
	t.Rates = &rateView{
		t.Rates.Opened + o.Rates.Opened,
		t.Rates.PacketsToBackend + o.Rates.PacketsToBackend, t.Rates.BytesToBackend + o.Rates.BytesToBackend,
		t.Rates.PacketsToClient + o.Rates.PacketsToClient, t.Rates.BytesToClient + o.Rates.BytesToClient,
		t.Rates.Refused + o.Rates.Refused, t.Rates.Dropped + o.Rates.Dropped,
	}
	return t
}

// trafficOf returns the traffic of all ports of a service.
func trafficOf(s serviceView) (t traffic) {
	for _, port := range s.Ports {
		if port.counted != nil {
			t = t.plus(*port.counted)
		}
	}
	return t
}

var (
	trafficColumns = []string{"ACTIVE", "NEW/S", "PKT/S TO BACKEND", "BIT/S", "PKT/S TO CLIENT", "BIT/S"}
	failureColumns = []string{"REFUSED/S", "DROPPED/S"}
)

// cells returns the cells of trafficColumns.
func (t traffic) cells() []string {
	r := cmp.Or(t.Rates, &rateView{})
	return []string{fmt.Sprint(t.Active), rate(r.Opened), rate(r.PacketsToBackend), rate(8 * r.BytesToBackend),
		rate(r.PacketsToClient), rate(8 * r.BytesToClient)}
}

// failures returns the cells of failureColumns.
func (t traffic) failures() []string {
	r := cmp.Or(t.Rates, &rateView{})
	return []string{rate(r.Refused), rate(r.Dropped)}
}

// rate formats a number with at most three digits: 0, 0.5, 12, 3.4k, 120M.
func rate(v float64) string {
	for _, unit := range []string{"", "k", "M", "G"} {
		switch {
		case v == 0:
			return "0"
		case v < 9.95:
			return fmt.Sprintf("%.1f%s", v, unit)
		case v < 999.5:
			return fmt.Sprintf("%.0f%s", v, unit)
		}
		v /= 1000
	}
	return fmt.Sprintf("%.0fT", v)
}

// portTable shows the counters of a service by port.
func portTable(s serviceView) table {
	t := table{header: []string{"PORT", "PROTOCOL", "IP FAMILY"}, empty: "The service has no ports."}
	t.header = append(append(t.header, trafficColumns...), failureColumns...)
	t.header = append(t.header, "CONNECT")
	for _, p := range s.Ports {
		counted := cmp.Or(p.counted, &traffic{})
		row := append([]string{cmp.Or(p.Name, "<unnamed>"), p.Proto, p.IPFamily}, counted.cells()...)
		t.rows = append(t.rows, append(append(row, counted.failures()...), counted.connect()))
	}
	return t
}

// connect returns the mean time from SYN to SYN-ACK.
func (t traffic) connect() string {
	if t.Wait == nil {
		return "<none>"
	}
	return time.Duration(t.Wait.Mean * float64(time.Second)).Round(time.Microsecond).String()
}

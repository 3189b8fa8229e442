// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// TestRates: by the time between two reads, over all ports, and of an id's new owner from zero on.
func TestRates(t *testing.T) {
	read := func(at int64, opened, bytes, dropped uint64) *counters {
		s := maps.ServiceStats{FlowStats: maps.FlowStats{Opened: opened, Active: 3, ToBackend: maps.Traffic{Packets: bytes / 100, Bytes: bytes}}}
		s.Dropped = map[bpf.Verdict]uint64{bpf.VerdictDropNoRoute: dropped}
		return &counters{at: time.Unix(at, 0), services: map[uint32]maps.ServiceStats{1: s}, backends: map[uint32]maps.FlowStats{2: s.FlowStats}}
	}
	for _, c := range []struct {
		before, now            *counters
		opened, bytes, dropped float64
	}{
		{read(10, 100, 1000, 5), read(12, 104, 3000, 6), 2, 1000, 0.5},
		{read(10, 100, 1000, 5), read(12, 4, 600, 0), 2, 300, 0},
		{read(10, 100, 1000, 5), read(11, 100, 1000, 5), 0, 0, 0},
	} {
		got := c.now.service(1, c.before)
		if r := got.Rates; r.Opened != c.opened || r.BytesToBackend != c.bytes || r.Dropped != c.dropped || r.BytesToClient != 0 {
			t.Errorf("rates of a service: %+v, want %v, %v, %v", *r, c.opened, c.bytes, c.dropped)
		}
		if r := c.now.backend(2, c.before).Rates; r.Opened != c.opened || r.BytesToBackend != c.bytes {
			t.Errorf("rates of a backend: %+v", *r)
		}
		sum := trafficOf(serviceView{Ports: []portView{{counted: &got}, {counted: &got}}})
		if sum.Active != 6 || sum.Rates.BytesToBackend != 2*c.bytes {
			t.Errorf("the sum of two ports: %+v, %+v", sum, *sum.Rates)
		}
	}
}

func TestRateSpelling(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.04: "0.0", 0.5: "0.5", 9.94: "9.9", 9.96: "10", 999: "999", 999.6: "1.0k", 34567: "35k", 1.2e9: "1.2G", 5e12: "5T"} {
		if got := rate(v); got != want {
			t.Errorf("%v: %s, want %s", v, got, want)
		}
	}
}

// TestTopPrints: the first by the order, no more than the limit; tables follow one another, and objects are
// documents of their own.
func TestTopPrints(t *testing.T) {
	row := func(name string, bytes float64) topServiceRow {
		return topServiceRow{Service: name, traffic: traffic{Rates: &rateView{BytesToBackend: bytes}}}
	}
	top := &top[topServiceRow]{out: output{format: "table"}, limit: 2, table: topServiceTable, sorted: sortFlag[topServiceRow]{
		given: "bytes", keys: trafficOrders(func(r topServiceRow) traffic { return r.traffic })}}
	rows := []topServiceRow{row("low", 1), row("high", 3), row("middle", 2)}
	var out bytes.Buffer
	for first := range 2 {
		if err := top.print(&out, rows, first == 0); err != nil {
			t.Fatal(err)
		}
	}
	text := out.String()
	if high, middle := strings.Index(text, "high"), strings.Index(text, "middle"); high < 0 || middle < high || strings.Contains(text, "low") {
		t.Errorf("printed:\n%s", text)
	}
	if strings.Count(text, "NAMESPACE") != 2 || strings.Count(text, "\n\n") != 1 || strings.Contains(text, "\x1b") {
		t.Errorf("printed twice:\n%q", text)
	}
	out.Reset()
	top.out.format = "json"
	for range 2 {
		if err := top.print(&out, rows, true); err != nil {
			t.Fatal(err)
		}
	}
	documents := json.NewDecoder(&out)
	for range 2 {
		var got []topServiceRow
		if err := documents.Decode(&got); err != nil || len(got) != 2 || got[0].Service != "high" || math.Abs(got[0].Rates.BytesToBackend-3) > 0 {
			t.Errorf("%+v, %v", got, err)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"maps"
	"path/filepath"
	"strings"
	"testing"
)

func TestRatios(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ratios.json")
	measured := func(ns, kpps float64) []Result {
		return []Result{
			{Metric: "cost", Waggle: ns, Limit: 50, Peers: map[string]float64{"peer": 200, "absent": 0, parseAlone: 2}},
			{Metric: "cost p99", Waggle: ns, Limit: 1},
			{Metric: "rate", Waggle: kpps, Higher: true, Peers: map[string]float64{"peer": 1000}},
		}
	}
	want := map[string]float64{"cost / limit": 0.5, "cost / peer": 2, "rate / peer": 3}
	if got := allRatios(measured(100, 3000)); !maps.Equal(got, want) {
		t.Errorf("ratios %v, want %v", got, want)
	}
	check := func(kind string, results []Result) error {
		recorded, err := ratiosOnRecord(file, kind)
		if err != nil {
			return err
		}
		return checkRatios(io.Discard, recorded, results)
	}
	if err := recordRatios(file, "one", measured(100, 3000)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ns, kpps float64
		lost     bool
	}{{100, 3000, false}, {130, 2300, false}, {50, 9000, false}, {140, 3000, true}, {100, 2200, true}} {
		if err := check("one", measured(c.ns, c.kpps)); (err != nil) != c.lost {
			t.Errorf("%v ns, %v kpps: %v", c.ns, c.kpps, err)
		}
	}
	if err := check("one", []Result{{Metric: "other", Waggle: 1, Limit: 1}}); err == nil {
		t.Error("a comparison of nothing passes")
	}
	if err := check("other", measured(100, 3000)); err == nil {
		t.Error("a comparison with another kind's record passes")
	}
	if err := check("one family 1", measured(100, 3000)); err != nil {
		t.Errorf("a record that names the vendor only: %v", err)
	}
	if err := check("one1", measured(100, 3000)); err == nil {
		t.Error("a comparison with the record of a kind whose name is cut off passes")
	}
	if err := recordRatios(file, "other", measured(10, 3000)); err != nil {
		t.Fatal(err)
	}
	if err := check("other", measured(100, 3000)); err == nil {
		t.Error("a loss passes, on a kind's own record")
	}
	if err := check("one", measured(100, 3000)); err != nil {
		t.Errorf("another kind's record: %v", err)
	}
}

func TestProcessorKind(t *testing.T) {
	if kind, err := processorKind(); err != nil || len(strings.Fields(kind)) < 2 {
		t.Errorf("kind %q, error %v", kind, err)
	}
}

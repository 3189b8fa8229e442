// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
)

// Result is one line of a table.
type Result struct {
	Metric string `json:"metric"`
	Unit   string `json:"unit"`
	// The medians of the runs; a limit of 0: none.
	Waggle float64            `json:"waggle"`
	Limit  float64            `json:"limit,omitempty"`
	Peers  map[string]float64 `json:"peers,omitempty"`
	// Higher: more is better, as with packets a second.
	Higher bool `json:"higher,omitempty"`
	// Runs are waggle's runs, in their order.
	Runs []float64 `json:"runs"`
}

// ratios compares waggle with each other subject: 1 is equal, and more is better.
func (r Result) ratios() map[string]float64 {
	out := map[string]float64{}
	others := maps.Clone(r.Peers)
	if others == nil {
		others = map[string]float64{}
	}
	if r.Limit > 0 {
		others["limit"] = r.Limit
	}
	for name, value := range others {
		ratio := value / r.Waggle
		if r.Higher {
			ratio = 1 / ratio
		}
		if value > 0 && r.Waggle > 0 && !math.IsInf(ratio, 0) {
			out[name] = ratio
		}
	}
	return out
}

// printTable prints a Markdown table that is readable in a terminal too. A peer's column has its
// value and, in brackets, how many times better waggle is.
func printTable(out io.Writer, title string, results []Result) {
	var peers []string
	for _, r := range results {
		for name := range r.Peers {
			if !slices.Contains(peers, name) {
				peers = append(peers, name)
			}
		}
	}
	slices.Sort(peers)
	fmt.Fprintf(out, "\n### %s\n\n", title)
	w := tabwriter.NewWriter(out, 0, 8, 1, ' ', 0)
	row := func(cells ...string) { fmt.Fprintln(w, "| "+strings.Join(cells, "\t| ")+"\t|") }
	row(append([]string{"metric", "unit", "waggle", "spread", "limit"}, peers...)...)
	row(slices.Repeat([]string{"---"}, 5+len(peers))...)
	for _, r := range results {
		ratios := r.ratios()
		cell := func(name string, value float64) string {
			if value == 0 {
				return ""
			}
			if ratios[name] == 0 {
				return figure(value)
			}
			return fmt.Sprintf("%s (%.2fx)", figure(value), ratios[name])
		}
		cells := []string{r.Metric, r.Unit, figure(r.Waggle),
			figure(slices.Min(r.Runs)) + "-" + figure(slices.Max(r.Runs)), cell("limit", r.Limit)}
		for _, name := range peers {
			cells = append(cells, cell(name, r.Peers[name]))
		}
		row(cells...)
	}
	w.Flush()
	fmt.Fprintln(out)
}

// figure formats three digits, or whole numbers.
func figure(v float64) string {
	switch a := math.Abs(v); {
	case a >= 100:
		return fmt.Sprintf("%.0f", v)
	case a >= 10:
		return fmt.Sprintf("%.1f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}

// writeJSON writes the lines of a table.
func writeJSON(dir, name string, results any) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	raw, err := json.MarshalIndent(results, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name+".json"), append(raw, '\n'), 0o644)
}

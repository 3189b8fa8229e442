// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"
)

// maxLoss is the fraction of a ratio that may be lost.
const maxLoss = 0.25

// parseAlone is a peer that takes so few nanoseconds that its ratio is noise.
const parseAlone = "parse"

// ratioName is the name of a ratio in the records.
func ratioName(metric, other string) string { return metric + " / " + other }

// allRatios leaves out p99, because one run on a shared machine has too few of the worst values to
// compare. It leaves out parseAlone, too.
func allRatios(results []Result) map[string]float64 {
	all := map[string]float64{}
	for _, r := range results {
		if strings.Contains(r.Metric, "p99") {
			continue
		}
		for other, ratio := range r.ratios() {
			if other != parseAlone {
				all[ratioName(r.Metric, other)] = math.Round(ratio*1000) / 1000
			}
		}
	}
	return all
}

// recordRatios updates the recorded ratios, and keeps those of groups that were not measured now.
func recordRatios(file string, results []Result) error {
	recorded, err := readRatios(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if recorded == nil {
		recorded = map[string]float64{}
	}
	maps.Copy(recorded, allRatios(results))
	raw, err := json.MarshalIndent(recorded, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

func readRatios(file string) (map[string]float64, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var recorded map[string]float64
	if err := json.Unmarshal(raw, &recorded); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return recorded, nil
}

// checkRatios fails if any ratio is worse than the recorded one by more than maxLoss, or if none is
// recorded. A ratio that was not measured is no loss: a run may measure only some groups.
func checkRatios(out io.Writer, file string, results []Result) error {
	recorded, err := readRatios(file)
	if err != nil {
		return err
	}
	measured := allRatios(results)
	lost, compared := 0, 0
	for _, name := range slices.Sorted(maps.Keys(measured)) {
		want, ok := recorded[name]
		if !ok {
			continue
		}
		compared++
		if got := measured[name]; got < want*(1-maxLoss) {
			lost++
			fmt.Fprintf(out, "%s: %.2f, on record %.2f\n", name, got, want)
		}
	}
	if compared == 0 {
		return fmt.Errorf("%s holds no ratio that was measured", file)
	}
	if lost > 0 {
		return fmt.Errorf("%d of %d ratios have lost more than %.0f%%", lost, compared, 100*maxLoss)
	}
	fmt.Fprintf(out, "%d ratios are no worse than on record, less %.0f%%\n", compared, 100*maxLoss)
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"strings"

	"github.com/prometheus/procfs"
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

// recordedRatios are the ratios on record: of each vendor of processors, by their names. What one
// vendor's processors do between two waits for memory, another's do not.
type recordedRatios map[string]map[string]float64

// processorVendor is the vendor of this machine's processors, as /proc/cpuinfo has it: vendor_id, or
// on arm64 the CPU implementer.
func processorVendor() (string, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return "", err
	}
	cpus, err := proc.CPUInfo()
	if err != nil {
		return "", fmt.Errorf("the vendor of the processors: %w", err)
	}
	if len(cpus) == 0 || cpus[0].VendorID == "" {
		return "", errors.New("/proc/cpuinfo names no vendor of the processors")
	}
	return cpus[0].VendorID, nil
}

// recordRatios updates the recorded ratios of a vendor, and keeps those of groups that were not
// measured now.
func recordRatios(file, vendor string, results []Result) error {
	recorded, err := readRatios(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if recorded == nil {
		recorded = recordedRatios{}
	}
	if recorded[vendor] == nil {
		recorded[vendor] = map[string]float64{}
	}
	maps.Copy(recorded[vendor], allRatios(results))
	raw, err := json.MarshalIndent(recorded, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(file, append(raw, '\n'), 0o644)
}

func readRatios(file string) (recordedRatios, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var recorded recordedRatios
	if err := json.Unmarshal(raw, &recorded); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return recorded, nil
}

// checkRatios fails if any ratio is worse than the vendor's recorded one by more than maxLoss, or if
// none is recorded. A ratio that was not measured is no loss: a run may measure only some groups.
func checkRatios(out io.Writer, file, vendor string, results []Result) error {
	recorded, err := readRatios(file)
	if err != nil {
		return err
	}
	if recorded[vendor] == nil {
		return fmt.Errorf("%s holds no ratios of %s processors: -record adds them", file, vendor)
	}
	measured := allRatios(results)
	lost, compared := 0, 0
	for _, name := range slices.Sorted(maps.Keys(measured)) {
		want, ok := recorded[vendor][name]
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
		return fmt.Errorf("%s holds none of the ratios that were measured on %s processors", file, vendor)
	}
	if lost > 0 {
		return fmt.Errorf("%d of %d ratios have lost more than %.0f%%", lost, compared, 100*maxLoss)
	}
	fmt.Fprintf(out, "%d ratios are no worse than on record, less %.0f%%\n", compared, 100*maxLoss)
	return nil
}

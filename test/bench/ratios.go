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

// recordedRatios are the ratios on record, of each kind of processor: what one does between two waits
// for memory, and what it takes for its mitigations, another does not.
type recordedRatios map[string]map[string]float64

// of returns the ratios of the name that says the most of all those that a kind begins with: a record
// may name the vendor only.
func (r recordedRatios) of(kind string) (ratios map[string]float64) {
	for _, name := range slices.Sorted(maps.Keys(r)) {
		if strings.HasPrefix(kind+" ", name+" ") {
			ratios = r[name]
		}
	}
	return ratios
}

// midr is the register that names an arm64 processor (Documentation/arch/arm64/cpu-feature-registers.rst).
const midr = "/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"

// processorKind is the kind of this machine's processors. Many hypervisors hide the model's name, but
// not its number.
func processorKind() (string, error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return "", err
	}
	cpus, err := proc.CPUInfo()
	if err != nil {
		return "", fmt.Errorf("the kind of the processors: %w", err)
	}
	if len(cpus) > 0 && cpus[0].VendorID != "" {
		return fmt.Sprintf("%s family %s model %s", cpus[0].VendorID, cpus[0].CPUFamily, cpus[0].Model), nil
	}
	raw, err := os.ReadFile(midr)
	if err != nil {
		return "", fmt.Errorf("/proc/cpuinfo names no vendor of the processors: %w", err)
	}
	return "MIDR " + strings.TrimSpace(string(raw)), nil
}

// recordRatios updates the recorded ratios of a kind of processor, and keeps those of groups that were not
// measured now.
func recordRatios(file, kind string, results []Result) error {
	recorded, err := readRatios(file)
	if err != nil && !os.IsNotExist(err) {
		return err
	}
	if recorded == nil {
		recorded = recordedRatios{}
	}
	if recorded[kind] == nil {
		recorded[kind] = map[string]float64{}
	}
	maps.Copy(recorded[kind], allRatios(results))
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

// ratiosOnRecord returns the ratios that a file has of a kind of processor.
func ratiosOnRecord(file, kind string) (map[string]float64, error) {
	all, err := readRatios(file)
	if err != nil {
		return nil, err
	}
	recorded := all.of(kind)
	if recorded == nil {
		return nil, fmt.Errorf("%s holds no ratios of processors %q: -record adds them", file, kind)
	}
	return recorded, nil
}

// checkRatios fails if any ratio is worse than the recorded one by more than maxLoss, or if none is
// recorded. A ratio that was not measured is no loss: a run may measure only some groups.
func checkRatios(out io.Writer, recorded map[string]float64, results []Result) error {
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
		return errors.New("no ratio that was measured is on record")
	}
	if lost > 0 {
		return fmt.Errorf("%d of %d ratios have lost more than %.0f%%", lost, compared, 100*maxLoss)
	}
	fmt.Fprintf(out, "%d ratios are no worse than on record, less %.0f%%\n", compared, 100*maxLoss)
	return nil
}

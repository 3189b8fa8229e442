// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

// All that the benchmarks know of the layout of the datapath's flow tables is in this file.

// flowRoom is how many records the flow tables have room for.
type flowRoom struct {
	established4, established6 uint32
	opened                     uint32 // of each family, not confirmed yet
}

// sizes are the max_entries of the maps.
func (r flowRoom) sizes() map[string]uint32 {
	return map[string]uint32{"flows4": r.established4, "flows6": r.established6,
		"flows_new4": r.opened / bpf.Ways, "flows_new6": r.opened / bpf.Ways}
}

// flowMaps are the maps that a flowTable of a family ("4" or "6") needs.
func flowMaps(family string) []string { return []string{"flows" + family} }

// flowTable is the datapath's table of established flows of one family.
type flowTable struct {
	records  *ebpf.Map
	template bpf.Flow // what a record holds besides its rewrite
}

func newFlowTable(p maps.Provider, family string, template bpf.Flow) flowTable {
	return flowTable{records: p.Map("flows" + family), template: template}
}

const batch = 4096

// fill writes the records of the flows from first to last, without last, as the datapath would have
// left them.
func (t flowTable) fill(f flows, first, last uint32) error {
	for ; first < last; first += batch {
		end, err := min(last, first+batch), error(nil)
		if f.src.Addr().Is6() {
			err = t.fill6(f, first, end)
		} else {
			err = t.fill4(f, first, end)
		}
		if err != nil {
			return fmt.Errorf("write flows: %w", err)
		}
	}
	return nil
}

func (t flowTable) fill4(f flows, first, last uint32) error {
	var keys []bpf.FlowKey4
	var values []bpf.Flow4
	for i := first; i < last; i++ {
		keys = append(keys, f.key4(i))
		values = append(values, f.record4(i, t.template))
	}
	_, err := t.records.BatchUpdate(keys, values, nil)
	return err
}

func (t flowTable) fill6(f flows, first, last uint32) error {
	var keys []bpf.FlowKey6
	var values []bpf.Flow6
	for i := first; i < last; i++ {
		keys = append(keys, f.key6(i))
		values = append(values, f.record6(i, t.template))
	}
	_, err := t.records.BatchUpdate(keys, values, nil)
	return err
}

// flowMemory tells what a flow of a family takes, established and before, if each map takes so much
// an element.
func flowMemory(element map[string]float64, family string) (established, opened float64) {
	return 2 * element["flows"+family], 2 * element["flows_new"+family] / float64(bpf.Ways)
}

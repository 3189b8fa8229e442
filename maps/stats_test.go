// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

// counted is what a backend of a service has in these tests.
func counted(service uint32, times uint64) bpf.FlowCounters {
	c := bpf.FlowCounters{Service: service, Opened: 2 * times, ConnectTime: 30 * times}
	c.Traffic[bpf.ToBackend] = bpf.Traffic{Packets: 4 * times, Bytes: 500 * times}
	c.Traffic[bpf.ToClient] = bpf.Traffic{Packets: 6 * times, Bytes: 7000 * times}
	c.Connect[3] = times
	return c
}

func flowStats(times uint64) maps.FlowStats {
	s := maps.FlowStats{
		Opened: 2 * times, ConnectTime: 30 * times,
		ToBackend: maps.Traffic{Packets: 4 * times, Bytes: 500 * times}, ToClient: maps.Traffic{Packets: 6 * times, Bytes: 7000 * times},
	}
	s.Connect[3] = times
	return s
}

// TestStatsOfService: a service has what its backends have and had, but not more than once, and not what others have.
func TestStatsOfService(t *testing.T) {
	p := mapstest.New(t, nil)
	stats := maps.NewStats(p)
	service := func(what string, id uint32, want maps.FlowStats) {
		t.Helper()
		all, err := maps.ReadServiceStats(p)
		must(t, err)
		expect(t, what, all[id].FlowStats, want)
	}
	must(t, stats.AddService(7))
	must(t, stats.AddService(8))
	for id, of := range map[uint32]uint32{1: 7, 2: 7, 3: 8} {
		must(t, stats.AddBackend(id, of))
		c := counted(of, uint64(id))
		must(t, p.Map("backend_stats").Update(id, &c, ebpf.UpdateExist))
	}
	service("both backends", 7, flowStats(3))
	must(t, stats.DropBackend(2))
	service("one is gone", 7, flowStats(3))
	must(t, stats.AddBackend(2, 8))
	service("its id is another service's", 7, flowStats(3))
	service("which begins at zero", 8, flowStats(3))

	must(t, stats.Keep([]uint32{7, 8}, map[uint32]uint32{1: 7, 3: 8}))
	service("an agent has started", 7, flowStats(3))
	backends, err := maps.ReadBackendStats(p)
	must(t, err)
	expect(t, "backends", len(backends), 2)

	must(t, stats.DropService(7))
	must(t, stats.DropBackend(1))
	must(t, stats.AddService(7))
	service("another service has the id", 7, maps.FlowStats{})
}

// TestActiveFlows: only the last complete walk counts, and none of a backend that is gone.
func TestActiveFlows(t *testing.T) {
	p := mapstest.New(t, nil)
	stats := maps.NewStats(p)
	must(t, stats.AddService(7))
	must(t, stats.AddBackend(1, 7))
	c := bpf.FlowCounters{Service: 7, Active: [2]bpf.Active{{Pass: 4, Flows: 40}, {Pass: 5, Flows: 50}}}
	must(t, p.Map("backend_stats").Update(uint32(1), &c, ebpf.UpdateExist))
	active := func() uint32 {
		all, err := maps.ReadServiceStats(p)
		must(t, err)
		return all[7].Active
	}
	for pass, want := range map[uint32]uint32{3: 0, 4: 40, 5: 50, 6: 0} {
		must(t, maps.CompletePass(p, pass))
		expect(t, "active flows", active(), want)
	}
	must(t, maps.CompletePass(p, 5))
	must(t, stats.DropBackend(1))
	expect(t, "active flows of a backend that is gone", active(), 0)
}

// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"os"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/serve/servetest"
)

func TestCollector(t *testing.T) {
	f := newFixture(t, nil)
	count := func(hook bpf.Hook, verdict bpf.Verdict, packets, bytes uint64) {
		perCPU := cpus(t, f)
		perCPU[0] = bpf.Counter{Packets: packets, Bytes: bytes}
		must(t, f.facts.Maps.Map("counters").Put(uint32(hook)*uint32(bpf.VerdictCount)+uint32(verdict), perCPU))
	}
	count(bpf.HookXDP, bpf.VerdictExpress, 5, 500)
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(&collector{Facts: f.facts, services: DefaultMetricsServices, backends: 10}))
	got := servetest.Readings(t, registry)
	for name, want := range map[string]float64{
		"waggle_agent_info{node=node-a,version=v0}":                             1,
		"waggle_packets_total{hook=xdp,verdict=express}":                        5,
		"waggle_bytes_total{hook=xdp,verdict=express}":                          500,
		"waggle_source_synced":                                                  1,
		"waggle_findings{about=hooks,severity=notice}":                          2,
		"waggle_announced_addresses":                                            3,
		"waggle_announcements_total":                                            5,
		"waggle_members":                                                        2,
		"waggle_source_problems":                                                1,
		"waggle_services{family=IPv4}":                                          2,
		"waggle_services{family=IPv6}":                                          1,
		"waggle_frontends{family=IPv4}":                                         3,
		"waggle_frontends{family=IPv6}":                                         1,
		"waggle_backends":                                                       2,
		"waggle_failures":                                                       1,
		"waggle_held_deletions":                                                 0,
		"waggle_flow_records{family=IPv4,state=confirmed}":                      2,
		"waggle_flow_records{family=IPv4,state=unconfirmed}":                    1,
		"waggle_flow_records{family=IPv6,state=confirmed}":                      2,
		"waggle_flow_records_expired_total":                                     7,
		"waggle_repairs_total{map=services4}":                                   1,
		"waggle_repairs_total{map=node_addrs6}":                                 0,
		"waggle_map_elements{map=services4}":                                    3,
		"waggle_map_elements{map=service_names}":                                3,
		"waggle_map_elements{map=flows6}":                                       2,
		"waggle_map_capacity{map=services4}":                                    100,
		"waggle_dns_queries_total{protocol=udp}":                                5,
		"waggle_dns_answers_total{rcode=NXDOMAIN}":                              4,
		"waggle_dns_forwarded_total":                                            3,
		"waggle_device_info{device=eth0,express=true,role=external,xdp=native}": 1,
		"waggle_device_info{device=eth1,express=false,role=overlay,xdp=none}":   1,
	} {
		if value, ok := got[name]; !ok || value != want {
			t.Errorf("%s is %v (there: %v), want %v", name, value, ok, want)
		}
	}
	if got["waggle_source_blind_seconds"] < 60 {
		t.Errorf("blind for a minute: %v", got["waggle_source_blind_seconds"])
	}
	if _, there := got["waggle_packets_total{hook=xdp,verdict=stack}"]; there {
		t.Error("a verdict that never was is listed")
	}
}

func cpus(t *testing.T, f *fixture) (perCPU []bpf.Counter) {
	t.Helper()
	must(t, f.facts.Maps.Map("counters").Lookup(uint32(0), &perCPU))
	return perCPU
}

// The names, units and help texts are as Prometheus wants them.
func TestMetricsLint(t *testing.T) {
	f := newFixture(t, nil)
	perCPU := cpus(t, f)
	perCPU[0].Packets = 1
	must(t, f.facts.Maps.Map("counters").Put(uint32(0), perCPU))
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(&collector{Facts: f.facts, services: DefaultMetricsServices, backends: 10}))
	families, err := registry.Gather()
	must(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	docs, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	for _, family := range families {
		if name := strings.TrimPrefix(family.GetName(), "waggle_"); !strings.Contains(string(docs), name) {
			t.Errorf("docs/operations.md says nothing of waggle_%s", name)
		}
	}
	if len(families) < 16 {
		t.Errorf("only %d metrics", len(families))
	}
}

// SPDX-License-Identifier: Apache-2.0

package control

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

// readings are the values of metrics, as in `name{label=value}`. Histograms have the number of
// their observations.
func readings(t *testing.T, g prometheus.Gatherer) map[string]float64 {
	t.Helper()
	families, err := g.Gather()
	must(t, err)
	out := map[string]float64{}
	for _, family := range families {
		for _, m := range family.Metric {
			var labels []string
			for _, l := range m.Label {
				labels = append(labels, l.GetName()+"="+l.GetValue())
			}
			name := family.GetName()
			if len(labels) > 0 {
				name += "{" + strings.Join(labels, ",") + "}"
			}
			out[name] = reading(m)
		}
	}
	return out
}

func reading(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	}
	return m.Gauge.GetValue()
}

// Row 39: /metrics has kube-proxy's names, and ours.
func TestRow39Scrape(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	slice := sliceObject("a", "10.1.0.1")
	slice.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: time.Now().Add(time.Hour).Format(time.RFC3339Nano)}
	f.begin(serviceObject("a", "10.96.0.1"), slice)
	f.awaitStatus(f.cfg.Serve.Healthz, "/healthz", 200)
	f.awaitStatus(f.cfg.Serve.Healthz, "/livez", 200)
	await(t, func() (string, bool) { return "no sync", !f.proxy.Status().LastSync.IsZero() })
	body, _ := f.awaitStatus(f.cfg.Serve.Metrics, "/metrics", 200)
	for _, want := range []string{
		`kubeproxy_sync_proxy_rules_duration_seconds_bucket{ip_family="IPv4",le=`,
		`kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv6"}`,
		`kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"}`,
		`kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family="IPv6"}`,
		"kubeproxy_sync_proxy_rules_endpoint_changes_pending ",
		"kubeproxy_sync_proxy_rules_endpoint_changes_total ",
		"kubeproxy_sync_proxy_rules_service_changes_pending ",
		"kubeproxy_sync_proxy_rules_service_changes_total ",
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv4",traffic_policy="internal"}`,
		`kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family="IPv6",traffic_policy="external"}`,
		`kubeproxy_network_programming_duration_seconds_bucket{ip_family="IPv4",le=`,
		`kubeproxy_proxy_healthz_total{code="200"}`,
		`kubeproxy_proxy_livez_total{code="200"}`,
		"go_goroutines ", "process_open_fds ",
		`waggle_agent_info{node="node-a",version="v0"} 1`,
		`waggle_services{family="IPv4"} 1`,
		`waggle_frontends{family="IPv4"} 1`,
		"waggle_backends 1",
		"waggle_source_synced 1",
	} {
		if !strings.Contains(body, "\n"+want) {
			t.Errorf("/metrics has no %s", want)
		}
	}
	if strings.Contains(body, "iptables") || strings.Contains(body, "nftables") || strings.Contains(body, "conntrack") {
		t.Error("/metrics has metrics of netfilter's")
	}
}

// Row 39: kube-proxy's metrics follow the syncs.
func TestRow39Syncs(t *testing.T) {
	registerKubeProxyMetrics()
	f := newProxyFixture(t, nil)
	const (
		all     = "kubeproxy_sync_proxy_rules_duration_seconds{ip_family=IPv4}"
		full    = "kubeproxy_sync_full_proxy_rules_duration_seconds{ip_family=IPv4}"
		partial = "kubeproxy_sync_partial_proxy_rules_duration_seconds{ip_family=IPv4}"
		network = "kubeproxy_network_programming_duration_seconds{ip_family=IPv4}"
		last    = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=IPv4}"
		queued  = "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds{ip_family=IPv4}"
		lacks   = "kubeproxy_sync_proxy_rules_no_local_endpoints_total{ip_family=IPv4,traffic_policy=%s}"
		pending = "kubeproxy_sync_proxy_rules_endpoint_changes_pending"
	)
	local := func(s *v1.Service) {
		s.Spec.Type, s.Spec.Ports[0].NodePort = v1.ServiceTypeNodePort, 30080
		s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		s.Spec.InternalTrafficPolicy = ptr.To(v1.ServiceInternalTrafficPolicyLocal)
	}
	before := readings(t, legacyregistry.DefaultGatherer)
	f.sync()
	if now := readings(t, legacyregistry.DefaultGatherer); now[all] != before[all] {
		t.Error("a sync is counted before the source has synced")
	}
	a, slice := serviceObject("a", "10.96.0.1", local), on(sliceObject("a", "10.1.0.1"), "node-b")
	slice.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: time.Now().Add(time.Minute).Format(time.RFC3339Nano)}
	f.begin(a, serviceObject("b", "10.96.0.2"), slice)
	now := readings(t, legacyregistry.DefaultGatherer)
	for name, want := range map[string]float64{all: 1, full: 1, partial: 0, network: 1} {
		if got := now[name] - before[name]; got != want {
			t.Errorf("after the first sync: %s has %v observations more, want %v", name, got, want)
		}
	}
	if now[last] <= before[last] || now[queued] <= before[queued] {
		t.Errorf("timestamps %v, %v; they were %v, %v", now[last], now[queued], before[last], before[queued])
	}
	for _, policy := range []string{"internal", "external"} {
		if got := now[fmt.Sprintf(lacks, policy)]; got != 1 {
			t.Errorf("%v services without local endpoints by the %s policy, want 1", got, policy)
		}
	}

	here := on(sliceObject("a", "10.1.0.1"), thisNode)
	f.OnEndpointSlice(slice, here)
	if got := readings(t, legacyregistry.DefaultGatherer)[pending]; got == 0 {
		t.Error("no change of endpoints is pending")
	}
	before = now
	f.sync()
	now = readings(t, legacyregistry.DefaultGatherer)
	for name, want := range map[string]float64{all: 1, full: 0, partial: 1, network: 0} {
		if got := now[name] - before[name]; got != want {
			t.Errorf("after a change: %s has %v observations more, want %v", name, got, want)
		}
	}
	if now[fmt.Sprintf(lacks, "internal")] != 0 || now[fmt.Sprintf(lacks, "external")] != 0 || now[pending] != 0 {
		t.Error("an endpoint on this node changed nothing")
	}
	f.OnEndpointSlice(here, slice)
	f.sync()
	f.OnService(a, nil)
	f.sync()
	if now = readings(t, legacyregistry.DefaultGatherer); now[fmt.Sprintf(lacks, "internal")] != 0 {
		t.Error("a deleted service still counts as being without local endpoints")
	}
}

// A sync that fails is no success; one that two services' claims spoil is none of the agent's.
func TestFailuresAndHealth(t *testing.T) {
	registerKubeProxyMetrics()
	const last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=IPv4}"
	f := newProxyFixture(t, nil)
	f.watch.health = NewHealth(time.Nanosecond)
	a := serviceObject("a", "10.96.0.1", externalIP("192.0.2.1"))
	f.add(a)
	if !f.watch.health.Health().Healthy {
		t.Error("unhealthy with nothing to be written yet")
	}
	f.OnSynced()
	if f.watch.health.Health().Healthy {
		t.Error("healthy with a sync overdue")
	}
	f.sync()
	if !f.watch.health.Health().Healthy {
		t.Error("unhealthy after a sync")
	}
	b := serviceObject("b", "10.96.0.2", externalIP("192.0.2.1"))
	f.add(b)
	f.sync()
	if len(f.failures) != 1 || !f.watch.health.Health().Healthy {
		t.Errorf("failures %v; two services claim a frontend, healthy: %v", f.failures, f.watch.health.Health().Healthy)
	}
	f.OnService(b, nil)
	f.sync()

	undo := f.maps.ReadOnly(t, "services4")
	before := readings(t, legacyregistry.DefaultGatherer)[last]
	f.add(serviceObject("c", "10.96.0.3"), serviceObject("six", "fd00::1"))
	f.sync()
	health := f.watch.health.Health()
	if health.Status[v1.IPv4Protocol].Healthy || !health.Status[v1.IPv6Protocol].Healthy {
		t.Errorf("IPv4 can't be written: %+v", health)
	}
	if readings(t, legacyregistry.DefaultGatherer)[last] != before {
		t.Error("the failed sync counts as a success")
	}
	undo()
	f.sync()
	if !f.watch.health.Health().Healthy || len(f.watch.stuck) != 0 {
		t.Errorf("unhealthy though all could be written; stuck %v", f.watch.stuck)
	}
}

// collectorOf is a collector over real maps and a real proxy, with the rest made up.
func collectorOf(f *proxyFixture) *collector {
	return &collector{
		maps: f.maps, version: "v0", node: thisNode, src: &testSource{
			problems: []status.Problem{{Message: "bad"}}, blind: time.Now().Add(-time.Minute),
		},
		proxy: f.metrics,
		devices: func() []status.Device {
			return []status.Device{
				{Name: "eth0", Role: status.RoleExternal, XDP: status.XDPNative, Express: true},
				{Name: "eth1", Role: status.RoleOverlay, XDP: "not for this role"},
			}
		},
		repairs:  func() map[string]int { return f.repairs.Totals() },
		findings: func() map[string]map[string]int { return map[string]map[string]int{"notice": {"hooks": 2}} },
		flows: func() status.FlowCensus {
			return status.FlowCensus{IPv4: status.FamilyCensus{Confirmed: 2, Unconfirmed: 1}, IPv6: status.FamilyCensus{Confirmed: 2}, Expired: 7}
		},
	}
}

func TestCollector(t *testing.T) {
	f := newProxyFixture(t, map[string]uint32{"services4": 100})
	f.begin(serviceObject("a", "10.96.0.1", externalIP("192.0.2.1")), sliceObject("a", "10.1.0.1", "10.1.0.2"),
		serviceObject("b", "10.96.0.2", externalIP("192.0.2.1")), serviceObject("six", "fd00::1"))
	count := func(hook bpf.Hook, verdict bpf.Verdict, packets, bytes uint64) {
		perCPU := cpus(t, f)
		perCPU[0] = bpf.Counter{Packets: packets, Bytes: bytes}
		must(t, f.maps.Map("counters").Put(uint32(hook)*uint32(bpf.VerdictCount)+uint32(verdict), perCPU))
	}
	count(bpf.HookXDP, bpf.VerdictExpress, 5, 500)
	must(t, maps.NewServices(f.maps).Delete(maps.Frontend{Addr: netip.MustParseAddr("192.0.2.1"), Port: 80, Proto: unix.IPPROTO_TCP}))
	f.repair(context.Background())
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(collectorOf(f)))
	got := readings(t, registry)
	for name, want := range map[string]float64{
		"waggle_agent_info{node=node-a,version=v0}":                             1,
		"waggle_packets_total{hook=xdp,verdict=express}":                        5,
		"waggle_bytes_total{hook=xdp,verdict=express}":                          500,
		"waggle_source_synced":                                                  1,
		"waggle_findings{about=hooks,severity=notice}":                          2,
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

func cpus(t *testing.T, f *proxyFixture) (perCPU []bpf.Counter) {
	t.Helper()
	must(t, f.maps.Map("counters").Lookup(uint32(0), &perCPU))
	return perCPU
}

// The names, units and help texts are as Prometheus wants them.
func TestMetricsLint(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.begin()
	perCPU := cpus(t, f)
	perCPU[0].Packets = 1
	must(t, f.maps.Map("counters").Put(uint32(0), perCPU))
	registry := prometheus.NewPedanticRegistry()
	must(t, registry.Register(collectorOf(f)))
	families, err := registry.Gather()
	must(t, err)
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	must(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	docs, err := os.ReadFile("../docs/operations.md")
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

// What the reconciler says it holds goes with what is deleted.
func TestReconcilerSize(t *testing.T) {
	f := newProxyFixture(t, nil)
	a := serviceObject("a", "10.96.0.1", externalIP("192.0.2.1"))
	f.begin(a, sliceObject("a", "10.1.0.1"))
	f.OnService(a, nil)
	f.sync()
	await(t, func() (string, bool) { // backends have a period of grace
		f.sync()
		s := f.reconciler.Size()
		return fmt.Sprintf("size %+v after all has gone", s), s.Services[maps.IPv4] == 0 && s.Frontends[maps.IPv4] == 0 && s.Backends == 0
	})
}

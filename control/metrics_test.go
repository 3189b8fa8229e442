// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-base/metrics/legacyregistry"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/serve"
	"github.com/waggle-lb/waggle/control/serve/servetest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
)

// Row 39: /metrics has kube-proxy's names, and ours.
func TestRow39Scrape(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	slice := sliceObject("a", "10.1.0.1")
	slice.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: time.Now().Add(time.Hour).Format(time.RFC3339Nano)}
	f.begin(serviceObject("a", "10.96.0.1"), slice)
	f.awaitStatus(f.cfg.Serve.Healthz, "/healthz", 200)
	f.awaitStatus(f.cfg.Serve.Healthz, "/livez", 200)
	await.Until(t, func() (string, bool) { return "no sync", !f.proxy.Status().LastSync.IsZero() })
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
	serve.RegisterKubeProxyMetrics()
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
	before := servetest.Readings(t, legacyregistry.DefaultGatherer)
	f.sync()
	if now := servetest.Readings(t, legacyregistry.DefaultGatherer); now[all] != before[all] {
		t.Error("a sync is counted before the source has synced")
	}
	a, slice := serviceObject("a", "10.96.0.1", local), on(sliceObject("a", "10.1.0.1"), "node-b")
	slice.Annotations = map[string]string{v1.EndpointsLastChangeTriggerTime: time.Now().Add(time.Minute).Format(time.RFC3339Nano)}
	f.begin(a, serviceObject("b", "10.96.0.2"), slice)
	now := servetest.Readings(t, legacyregistry.DefaultGatherer)
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
	if got := servetest.Readings(t, legacyregistry.DefaultGatherer)[pending]; got == 0 {
		t.Error("no change of endpoints is pending")
	}
	before = now
	f.sync()
	now = servetest.Readings(t, legacyregistry.DefaultGatherer)
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
	if now = servetest.Readings(t, legacyregistry.DefaultGatherer); now[fmt.Sprintf(lacks, "internal")] != 0 {
		t.Error("a deleted service still counts as being without local endpoints")
	}
}

// A sync that fails is no success; one that two services' claims spoil is none of the agent's.
func TestFailuresAndHealth(t *testing.T) {
	serve.RegisterKubeProxyMetrics()
	const last = "kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family=IPv4}"
	f := newProxyFixture(t, nil)
	f.watch.health = serve.NewHealth(time.Nanosecond)
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
	before := servetest.Readings(t, legacyregistry.DefaultGatherer)[last]
	f.add(serviceObject("c", "10.96.0.3"), serviceObject("six", "fd00::1"))
	f.sync()
	health := f.watch.health.Health()
	if health.Status[v1.IPv4Protocol].Healthy || !health.Status[v1.IPv6Protocol].Healthy {
		t.Errorf("IPv4 can't be written: %+v", health)
	}
	if servetest.Readings(t, legacyregistry.DefaultGatherer)[last] != before {
		t.Error("the failed sync counts as a success")
	}
	undo()
	f.sync()
	if !f.watch.health.Health().Healthy || len(f.watch.stuck) != 0 {
		t.Errorf("unhealthy though all could be written; stuck %v", f.watch.stuck)
	}
}

// What the reconciler says it holds goes with what is deleted.
func TestReconcilerSize(t *testing.T) {
	f := newProxyFixture(t, nil)
	a := serviceObject("a", "10.96.0.1", externalIP("192.0.2.1"))
	f.begin(a, sliceObject("a", "10.1.0.1"))
	f.OnService(a, nil)
	f.sync()
	await.Until(t, func() (string, bool) { // backends have a period of grace
		f.sync()
		s := f.reconciler.Size()
		return fmt.Sprintf("size %+v after all has gone", s), s.Services[maps.IPv4] == 0 && s.Frontends[maps.IPv4] == 0 && s.Backends == 0
	})
}

// What the metrics say that is in force is what is in the maps.
func TestSize(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.begin(serviceObject("a", "10.96.0.1", externalIP("192.0.2.1")), sliceObject("a", "10.1.0.1", "10.1.0.2"),
		serviceObject("b", "10.96.0.2", externalIP("192.0.2.1")), serviceObject("six", "fd00::1"))
	want := serve.Size{
		Synced: true, Failures: 1, Services: map[maps.Family]int{maps.IPv4: 2, maps.IPv6: 1},
		Frontends: map[maps.Family]int{maps.IPv4: 3, maps.IPv6: 1}, Backends: 2,
	}
	if diff := cmp.Diff(want, f.size()); diff != "" {
		t.Errorf("size (-want +got):\n%s", diff)
	}
}

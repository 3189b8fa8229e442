// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/serve/servetest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

// counted makes a service of a name, and a backend of the same id, of which so much was counted.
func (f *fixture) counted(id uint32, name string, failed bpf.ServiceCounters, flows bpf.FlowCounters) {
	f.t.Helper()
	p := f.facts.Maps
	must(f.t, maps.NewNames(p).Put(id, maps.Name{Namespace: "default", Name: name, Port: "http", Proto: unix.IPPROTO_TCP, Family: maps.IPv4}, maps.PlainType))
	flows.Service = id
	must(f.t, p.Map("service_stats").Put(id, &failed))
	must(f.t, p.Map("backend_stats").Put(id, &flows))
	must(f.t, p.Map("backends").Put(id, &bpf.Backend{Addr: [4]uint32{id}, Service: id, Port: 80, Proto: unix.IPPROTO_TCP}))
}

// aService has had as many bytes as it says, and of all else that can be counted.
func aService(bytes uint64) (failed bpf.ServiceCounters, flows bpf.FlowCounters) {
	flows = bpf.FlowCounters{Opened: 4, ConnectTime: 1500, Connect: [16]uint64{0: 1, 2: 2, 15: 1}}
	flows.Traffic[bpf.ToBackend] = bpf.Traffic{Packets: 5, Bytes: bytes}
	flows.Traffic[bpf.ToClient] = bpf.Traffic{Packets: 6, Bytes: 7}
	flows.Active[1] = bpf.Active{Pass: 3, Flows: 2}
	failed.Refused = 8
	for i := range failed.Dropped {
		failed.Dropped[i] = uint64(i)
	}
	return failed, flows
}

func (f *fixture) countedBytes(id uint32, name string, bytes uint64) {
	f.t.Helper()
	failed, flows := aService(bytes)
	f.counted(id, name, failed, flows)
}

func (f *fixture) collect(services, backends int) map[string]float64 {
	f.t.Helper()
	registry := prometheus.NewPedanticRegistry()
	must(f.t, registry.Register(&collector{Facts: f.facts, services: services, backends: backends}))
	all := servetest.Readings(f.t, registry)
	for name := range all {
		if !strings.HasPrefix(name, "waggle_service_") && !strings.HasPrefix(name, "waggle_backend_") {
			delete(all, name)
		}
	}
	return all
}

// TestServiceMetrics: of those with most bytes there is all that was counted, of others that they were left out.
func TestServiceMetrics(t *testing.T) {
	f := newFixture(t, nil)
	f.countedBytes(1, "small", 10)
	f.countedBytes(2, "large", 1000)
	must(t, maps.CompletePass(f.facts.Maps, 3))
	got := f.collect(1, 1)
	const labels = "family=IPv4,namespace=default,port=http,protocol=TCP,service=large"
	want := map[string]float64{
		"waggle_service_opened_flows_total{%}": 4, "waggle_service_active_flows{%}": 2, "waggle_service_refused_total{%}": 8,
		"waggle_service_connect_seconds{%}":                          4,
		"waggle_service_metrics_omitted":                             1,
		"waggle_backend_opened_flows_total{address=2.0.0.0:20480,%}": 4, "waggle_backend_active_flows{address=2.0.0.0:20480,%}": 2,
		"waggle_backend_connect_seconds{address=2.0.0.0:20480,%}": 4,
		"waggle_backend_metrics_omitted":                          1,
	}
	for direction, n := range map[string][2]float64{"to-backend": {5, 1000}, "to-client": {6, 7}} {
		at := strings.Replace(labels, "family", "direction="+direction+",family", 1)
		want["waggle_service_packets_total{"+at+"}"], want["waggle_service_bytes_total{"+at+"}"] = n[0], n[1]
		at = "address=2.0.0.0:20480," + at
		want["waggle_backend_packets_total{"+at+"}"], want["waggle_backend_bytes_total{"+at+"}"] = n[0], n[1]
	}
	for i, reason := range bpf.Drops() {
		if i > 0 { // none of the first
			want["waggle_service_dropped_total{"+strings.Replace(labels, "service=", "reason="+bpf.VerdictName(reason)+",service=", 1)+"}"] = float64(i)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d series, want %d: %v", len(got), len(want), got)
	}
	for name, value := range want {
		name = strings.Replace(name, "%", labels, 1)
		if have, ok := got[name]; !ok || have != value {
			t.Errorf("%s is %v (there: %t), want %v", name, have, ok, value)
		}
	}
	if none := f.collect(0, 0); len(none) != 1 || none["waggle_service_metrics_omitted"] != 2 {
		t.Errorf("with none: %v", none)
	}
}

// TestServiceMetricsReused: what was counted for one service is never called another's that has its id.
func TestServiceMetricsReused(t *testing.T) {
	f := newFixture(t, nil)
	f.countedBytes(1, "first", 10)
	stats, names := maps.NewStats(f.facts.Maps), maps.NewNames(f.facts.Maps)
	must(t, names.Delete(1))
	must(t, stats.DropService(1))
	must(t, stats.DropBackend(1))
	if got := f.collect(10, 0); len(got) != 1 {
		t.Errorf("after the service is gone: %v", got)
	}
	must(t, stats.AddService(1))
	must(t, names.Put(1, maps.Name{Namespace: "default", Name: "second", Proto: unix.IPPROTO_UDP, Family: maps.IPv4}, maps.PlainType))
	got := f.collect(10, 0)
	for name, value := range got {
		if value != 0 || strings.Contains(name, "first") {
			t.Errorf("%s is %v", name, value)
		}
	}
	if len(got) != 8 { // a UDP service's have no histogram
		t.Errorf("%d series: %v", len(got), got)
	}
}

// TestMetricsOfManyServices: 10,000 services have no more series than are allowed, each with all that a service can
// have.
func TestMetricsOfManyServices(t *testing.T) {
	const services = 10_000
	f := newFixture(t, nil)
	f.facts.Maps = mapstest.New(t, map[string]uint32{
		"service_names": services + 1, "service_stats": services + 2, "backend_stats": services + 2, "backends": services + 1,
	})
	for id := uint32(1); id <= services; id++ {
		failed, flows := aService(uint64(id))
		failed.Dropped[0] = 1
		f.counted(id, fmt.Sprintf("service-%d", id), failed, flows)
	}
	for _, limit := range []int{0, DefaultMetricsServices, 4 * DefaultMetricsServices} {
		for _, backends := range []int{0, 100} {
			handler, err := metricsOf(f.facts, Config{MetricsServices: limit, MetricsBackends: backends})
			must(t, err)
			server := httptest.NewServer(handler)
			started, before := time.Now(), residentMemory(t)
			response, err := http.Get(server.URL)
			must(t, err)
			text, err := io.ReadAll(response.Body)
			must(t, err)
			took := time.Since(started)
			response.Body.Close()
			server.Close()
			series := seriesOf(text, "waggle_service_")
			t.Logf("--metrics-services %d --metrics-backends %d: %d series by service, %d by backend, %d kB, %v, resident memory +%d kB", limit, backends,
				series, seriesOf(text, "waggle_backend_"), len(text)>>10, took.Round(time.Millisecond), residentMemory(t)-before)
			if want := min(limit, services)*SeriesPerService + 1; series != want {
				t.Errorf("%d services: %d series, want %d", limit, series, want)
			}
			want := 0
			if backends > 0 {
				want = backends*SeriesPerBackend + 1
			}
			if got := seriesOf(text, "waggle_backend_"); got != want {
				t.Errorf("%d backends: %d series, want %d", backends, got, want)
			}
			if !bytes.Contains(text, []byte("service-10000")) && limit > 0 {
				t.Error("the service with most bytes is left out")
			}
		}
	}
}

func seriesOf(text []byte, prefix string) (n int) {
	for line := range bytes.Lines(text) {
		if bytes.HasPrefix(line, []byte(prefix)) {
			n++
		}
	}
	return n
}

// residentMemory of this process, in kB.
func residentMemory(t *testing.T) (kb int) {
	t.Helper()
	raw, err := os.ReadFile("/proc/self/statm")
	must(t, err)
	var size, resident int
	_, err = fmt.Sscan(string(raw), &size, &resident)
	must(t, err)
	return resident * os.Getpagesize() >> 10
}

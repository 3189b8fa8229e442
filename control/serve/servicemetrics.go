// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/maps"
)

// Metrics by service and by backend. There may be more of both than a collector of metrics can store. So Config
// limits their number, and those with the most bytes come first.

// DefaultMetricsServices is the default number of service ports with series.
const DefaultMetricsServices = 500

// SeriesPerService is the most series that a service port has: opened, active, refused, packets and bytes in two
// directions, the buckets of the histogram with its sum and count, and each reason to drop.
const SeriesPerService = 7 + histogramSeries + len(bpf.ServiceCounters{}.Dropped)

// SeriesPerBackend is the most series that a backend has.
const SeriesPerBackend = 6 + histogramSeries

// histogramSeries are the buckets, of which the last is the one with no end, the sum and the count.
const histogramSeries = len(bpf.FlowCounters{}.Connect) + 2

var (
	serviceLabels = []string{"namespace", "service", "port", "protocol", "family"}
	backendLabels = append(slices.Clone(serviceLabels), "address")

	descServiceOpened  = desc("service_opened_flows_total", "Flows to a service that were opened, and sockets that were connected to it", serviceLabels...)
	descServiceActive  = desc("service_active_flows", "Flows to a service that were open at the last walk; those of sockets are not known", serviceLabels...)
	descServiceRefused = desc("service_refused_total", "Packets for a service, and calls of sockets, that were refused", serviceLabels...)
	descServiceDropped = desc("service_dropped_total", "Packets for a service, and calls of sockets, that were dropped, by reason", append(slices.Clone(serviceLabels), "reason")...)
	descServicePackets = desc("service_packets_total", "Packets of a service's flows, as the hooks see them", append(slices.Clone(serviceLabels), "direction")...)
	descServiceBytes   = desc("service_bytes_total", "Bytes of these packets, from the IP header on", append(slices.Clone(serviceLabels), "direction")...)
	descServiceConnect = desc("service_connect_seconds", "How long the SYN of a connection to a service waited for its SYN-ACK", serviceLabels...)
	descServiceOmitted = desc("service_metrics_omitted", "Service ports without series by service (--metrics-services)")

	descBackendOpened  = desc("backend_opened_flows_total", "Flows to a backend that were opened, and sockets that were connected to it", backendLabels...)
	descBackendActive  = desc("backend_active_flows", "Flows to a backend that were open at the last walk", backendLabels...)
	descBackendPackets = desc("backend_packets_total", "Packets of a backend's flows, as the hooks see them", append(slices.Clone(backendLabels), "direction")...)
	descBackendBytes   = desc("backend_bytes_total", "Bytes of these packets, from the IP header on", append(slices.Clone(backendLabels), "direction")...)
	descBackendConnect = desc("backend_connect_seconds", "How long the SYN of a connection to a backend waited for its SYN-ACK", backendLabels...)
	descBackendOmitted = desc("backend_metrics_omitted", "Backends without series by backend (--metrics-backends)")
)

var statsDescs = []*prometheus.Desc{
	descServiceOpened, descServiceActive, descServiceRefused, descServiceDropped, descServicePackets, descServiceBytes,
	descServiceConnect, descServiceOmitted,
	descBackendOpened, descBackendActive, descBackendPackets, descBackendBytes, descBackendConnect, descBackendOmitted,
}

// collectStats reads the counters before the names: an id is not reused for a second, so no counter gets the name
// of a later owner.
func (c *collector) collectStats(ch chan<- prometheus.Metric) {
	services, err := maps.ReadServiceStats(c.Maps)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descServiceOpened, err)
		return
	}
	var backends map[uint32]maps.FlowStats
	var endpoints map[uint32]maps.Backend
	if c.backends > 0 {
		if backends, err = maps.ReadBackendStats(c.Maps); err == nil {
			endpoints, err = maps.ReadBackends(c.Maps)
		}
		if err != nil {
			ch <- prometheus.NewInvalidMetric(descBackendOpened, err)
			return
		}
	}
	names, err := maps.NewNames(c.Maps).All()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descServiceOpened, err)
		return
	}
	c.collectServices(ch, services, names)
	c.collectBackends(ch, backends, endpoints, names)
}

func (c *collector) collectServices(ch chan<- prometheus.Metric, stats map[uint32]maps.ServiceStats, names map[uint32]maps.Name) {
	shown := busiest(stats, c.services, func(id uint32) (maps.FlowStats, bool) {
		_, ok := names[id]
		return stats[id].FlowStats, ok
	})
	for _, id := range shown {
		s, labels := stats[id], labelsOf(names[id])
		sendCounter(ch, descServiceRefused, s.Refused, labels)
		for reason, n := range s.Dropped {
			sendCounter(ch, descServiceDropped, n, labels, bpf.VerdictName(reason))
		}
		sendFlows(ch, s.FlowStats, labels, labels[3] == "TCP", flowDescs{
			descServiceOpened, descServiceActive, descServicePackets, descServiceBytes, descServiceConnect,
		})
	}
	ch <- prometheus.MustNewConstMetric(descServiceOmitted, prometheus.GaugeValue, float64(len(names)-len(shown)))
}

func (c *collector) collectBackends(ch chan<- prometheus.Metric, stats map[uint32]maps.FlowStats, endpoints map[uint32]maps.Backend, names map[uint32]maps.Name) {
	if c.backends == 0 {
		return
	}
	shown := busiest(stats, c.backends, func(id uint32) (maps.FlowStats, bool) {
		_, ok := names[endpoints[id].Service]
		return stats[id], ok
	})
	for _, id := range shown {
		b := endpoints[id]
		labels := append(labelsOf(names[b.Service]), netip.AddrPortFrom(b.Addr, b.Port).String())
		sendFlows(ch, stats[id], labels, labels[3] == "TCP", flowDescs{
			descBackendOpened, descBackendActive, descBackendPackets, descBackendBytes, descBackendConnect,
		})
	}
	ch <- prometheus.MustNewConstMetric(descBackendOmitted, prometheus.GaugeValue, float64(len(endpoints)-len(shown)))
}

func labelsOf(n maps.Name) []string {
	return []string{n.Namespace, n.Name, n.Port, maps.ProtoName(n.Proto), string(plan.IPFamilies[n.Family])}
}

// busiest returns the ids with the most bytes, at most limit. of returns the counters of an id, and whether it
// counts.
func busiest[V any](all map[uint32]V, limit int, of func(id uint32) (maps.FlowStats, bool)) []uint32 {
	type ranked struct {
		id            uint32
		bytes, opened uint64
	}
	ranks := make([]ranked, 0, len(all))
	for id := range all {
		if s, ok := of(id); ok {
			ranks = append(ranks, ranked{id, s.ToBackend.Bytes + s.ToClient.Bytes, s.Opened})
		}
	}
	slices.SortFunc(ranks, func(a, b ranked) int {
		return cmp.Or(cmp.Compare(b.bytes, a.bytes), cmp.Compare(b.opened, a.opened), cmp.Compare(a.id, b.id))
	})
	ids := make([]uint32, min(limit, len(ranks)))
	for i := range ids {
		ids[i] = ranks[i].id
	}
	return ids
}

// flowDescs are the metrics that both services and backends have.
type flowDescs struct{ opened, active, packets, bytes, connect *prometheus.Desc }

func sendFlows(ch chan<- prometheus.Metric, s maps.FlowStats, labels []string, connects bool, d flowDescs) {
	sendCounter(ch, d.opened, s.Opened, labels)
	ch <- prometheus.MustNewConstMetric(d.active, prometheus.GaugeValue, float64(s.Active), labels...)
	for direction, t := range map[string]maps.Traffic{"to-backend": s.ToBackend, "to-client": s.ToClient} {
		sendCounter(ch, d.packets, t.Packets, labels, direction)
		sendCounter(ch, d.bytes, t.Bytes, labels, direction)
	}
	if !connects {
		return
	}
	buckets, total := map[float64]uint64{}, uint64(0)
	for i, n := range s.Connect {
		total += n
		if i < len(s.Connect)-1 {
			buckets[seconds(maps.ConnectBound(i))] = total
		}
	}
	ch <- prometheus.MustNewConstHistogram(d.connect, total, seconds(s.ConnectTime), buckets, labels...)
}

// seconds of microseconds. A quotient of two integers has the shortest text: 0.000128, not 0.00012800000000000002.
func seconds(us uint64) float64 { return float64(us) / 1e6 }

func sendCounter(ch chan<- prometheus.Metric, d *prometheus.Desc, n uint64, labels []string, more ...string) {
	ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), slices.Concat(labels, more)...)
}

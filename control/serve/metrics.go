// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/clientgo" // rest_client_*
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"
	proxymetrics "k8s.io/kubernetes/pkg/proxy/metrics"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/plan"
	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

// RegisterKubeProxyMetrics registers kube-proxy's metrics, once in a process. Values that were set before
// are lost. It registers them for the mode of kube-proxy that adds no metrics of netfilter.
var RegisterKubeProxyMetrics = sync.OnceFunc(func() {
	proxymetrics.RegisterMetrics(kubeproxy.ProxyModeKernelspace)
	legacyregistry.MustRegister(proxymetrics.SyncFullProxyRulesLatency, proxymetrics.SyncPartialProxyRulesLatency)
})

// metricsOf returns the handler of /metrics: kube-proxy's and the Go runtime's metrics, and ours.
func metricsOf(facts Facts, cfg Config) (http.Handler, error) {
	RegisterKubeProxyMetrics()
	ours := prometheus.NewRegistry()
	if err := ours.Register(&collector{Facts: facts, services: cfg.MetricsServices, backends: cfg.MetricsBackends}); err != nil {
		return nil, err
	}
	return promhttp.HandlerFor(prometheus.Gatherers{legacyregistry.DefaultGatherer, ours},
		promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError}), nil
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("waggle_"+name, help, labels, nil)
}

// waggle's own metrics. Counters of packets are in the datapath, and outlive the agent.
var (
	descAgent    = desc("agent_info", "The agent; always 1", "version", "node")
	descPackets  = desc("packets_total", "Packets by hook and verdict; verdicts of the form flow* count events in addition to the packets", "hook", "verdict")
	descBytes    = desc("bytes_total", "Bytes of these packets, as the hook sees them", "hook", "verdict")
	descSynced   = desc("source_synced", "Whether the source has delivered everything once (1), or the datapath still works with its earlier contents (0)")
	descBlind    = desc("source_blind_seconds", "How long the source has not seen the cluster; 0 while it does")
	descProblems = desc("source_problems", "Problems of the objects that the source reads")
	descFindings = desc("findings", "Findings of the agent on its node, by severity: a warning may keep something from working, a notice is good to know", "severity", "about")
	descServices = desc("services", "Service ports in the maps, of both families", "family")
	descFronts   = desc("frontends", "Addresses and ports that lead to a service", "family")
	descBackends = desc("backends", "Endpoints in the maps, counted for each service port that has them")
	descFailures = desc("failures", "Service ports that could not be written completely")
	descHeld     = desc("held_deletions", "Services that are gone from the manifests, but kept in force by --deletion-brake")
	descRecords  = desc("flow_records", "Records of flows: each flow has two or three; new records replace unconfirmed ones", "family", "state")
	descExpired  = desc("flow_records_expired_total", "Expired records of flows that were removed since the agent started")
	descRepairs  = desc("repairs_total", "Elements of a map that another program had changed and the agent has repaired, since it started", "map")
	descElements = desc("map_elements", "Elements in use of a map", "map")
	descCapacity = desc("map_capacity", "Elements that a map can have", "map")
	descQueries  = desc("dns_queries_total", "Queries for names that the agent has been sent since it started (--dns)", "protocol")
	descAnswers  = desc("dns_answers_total", "Its answers to them, by DNS response code", "rcode")
	descForward  = desc("dns_forwarded_total", "Of these queries, those that the node's resolvers were to answer")
	descHolds    = desc("announced_addresses", "Addresses of load balancers that this node answers ARP requests and neighbour solicitations for")
	descMoves    = desc("announcements_total", "How often this node began to announce an address, since the agent started")
	descMembers  = desc("members", "Other agents that announce addresses, and are alive or restart")
	descDevice   = desc("device_info", "A device that the datapath serves; always 1", "device", "role", "xdp", "express")
)

// collector reads waggle's metrics at each scrape.
type collector struct {
	Facts
	services, backends int // the most that have series
}

// Describe is part of prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		descAgent, descPackets, descBytes, descSynced, descBlind, descProblems, descFindings, descServices, descFronts, descBackends,
		descFailures, descHeld, descRecords, descExpired, descRepairs, descElements, descCapacity, descDevice,
		descQueries, descAnswers, descForward,
		descHolds, descMoves, descMembers,
	} {
		ch <- d
	}
	for _, d := range statsDescs {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	set := func(d *prometheus.Desc, value float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	set(descAgent, 1, c.Version, c.Node)
	c.collectCounters(ch)
	c.collectStats(ch)
	c.collectSource(set)
	flows := c.Flows()
	ch <- prometheus.MustNewConstMetric(descExpired, prometheus.CounterValue, float64(flows.Expired))
	for family, census := range map[string]status.FamilyCensus{"IPv4": flows.IPv4, "IPv6": flows.IPv6} {
		set(descRecords, float64(census.Confirmed), family, "confirmed")
		set(descRecords, float64(census.Unconfirmed), family, "unconfirmed")
	}
	c.collectNames(ch)
	p := c.Size()
	c.collectProxy(set, p)
	c.collectMaps(set, p, flows)
	if a := c.Announced(); a.Announces {
		set(descHolds, float64(a.Held))
		set(descMembers, float64(a.Members))
		ch <- prometheus.MustNewConstMetric(descMoves, prometheus.CounterValue, float64(a.Moves))
	}
	for table, n := range c.Repairs() {
		ch <- prometheus.MustNewConstMetric(descRepairs, prometheus.CounterValue, float64(n), table)
	}
	for severity, counts := range c.Findings() {
		for about, n := range counts {
			set(descFindings, float64(n), severity, about)
		}
	}
	for _, d := range c.Devices() {
		xdp := "none"
		if d.XDP == status.XDPNative {
			xdp = status.XDPNative
		}
		set(descDevice, 1, d.Name, string(d.Role), xdp, strconv.FormatBool(d.Express))
	}
}

func (c *collector) collectCounters(ch chan<- prometheus.Metric) {
	counters, err := maps.ReadCounters(c.Maps)
	if err != nil {
		ch <- prometheus.NewInvalidMetric(descPackets, err)
		return
	}
	for _, n := range counters {
		labels := []string{bpf.HookName(n.Hook), bpf.VerdictName(n.Verdict)}
		ch <- prometheus.MustNewConstMetric(descPackets, prometheus.CounterValue, float64(n.Packets), labels...)
		ch <- prometheus.MustNewConstMetric(descBytes, prometheus.CounterValue, float64(n.Bytes), labels...)
	}
}

func (c *collector) collectNames(ch chan<- prometheus.Metric) {
	n := c.Names()
	if n == nil {
		return
	}
	for protocol, count := range n.Queries {
		ch <- prometheus.MustNewConstMetric(descQueries, prometheus.CounterValue, float64(count), protocol)
	}
	for rcode, count := range n.Answers {
		ch <- prometheus.MustNewConstMetric(descAnswers, prometheus.CounterValue, float64(count), rcode)
	}
	ch <- prometheus.MustNewConstMetric(descForward, prometheus.CounterValue, float64(n.Forwarded))
}

type setGauge func(d *prometheus.Desc, value float64, labels ...string)

func (c *collector) collectSource(set setGauge) {
	set(descProblems, float64(len(c.Source.Problems())))
	set(descHeld, float64(len(source.Held(c.Source))))
	blind := 0.0
	if w, ok := c.Source.(source.Watcher); ok {
		if since, _ := w.Blind(); !since.IsZero() {
			blind = time.Since(since).Seconds()
		}
	}
	set(descBlind, blind)
}

func (c *collector) collectProxy(set setGauge, p Size) {
	synced := 0.0
	if p.Synced {
		synced = 1
	}
	set(descSynced, synced)
	set(descFailures, float64(p.Failures))
	set(descBackends, float64(p.Backends))
	for family, name := range plan.IPFamilies {
		set(descServices, float64(p.Services[family]), string(name))
		set(descFronts, float64(p.Frontends[family]), string(name))
	}
}

// collectMaps reports how full those maps are whose elements the agent counts for other reasons.
func (c *collector) collectMaps(set setGauge, p Size, flows status.FlowCensus) {
	for name, elements := range map[string]int{
		"services4": p.Frontends[maps.IPv4], "services6": p.Frontends[maps.IPv6],
		"service_names": p.Services[maps.IPv4] + p.Services[maps.IPv6], "backends": p.Backends,
	} {
		set(descElements, float64(elements), name)
		set(descCapacity, float64(c.Maps.Map(name).MaxEntries()), name)
	}
	// An element of these maps is a set of records. The metric counts records.
	for name, census := range map[string]status.FamilyCensus{"flows4": flows.IPv4, "flows6": flows.IPv6} {
		set(descElements, float64(census.Confirmed+census.Unconfirmed), name)
		set(descCapacity, float64(c.Maps.Map(name).MaxEntries())*float64(bpf.Ways), name)
	}
}

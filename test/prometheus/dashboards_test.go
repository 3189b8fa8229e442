// SPDX-License-Identifier: Apache-2.0

package prometheus

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// query is one of a dashboard's, or the expression of an alert.
type query struct{ from, expr string }

// grafanaVariables puts values in the place of what Grafana would.
var grafanaVariables = strings.NewReplacer("$__rate_interval", "30s", "$instance", ".*", "$namespace", ".*", "$service", ".*")

// dashboardQueries are those of all dashboards.
func dashboardQueries(t *testing.T) (all []query) {
	t.Helper()
	files, err := filepath.Glob("../../deploy/grafana/*.json")
	check(t, err)
	for _, file := range files {
		raw, err := os.ReadFile(file)
		check(t, err)
		var board struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		check(t, json.Unmarshal(raw, &board))
		if len(board.Panels) == 0 {
			t.Errorf("%s has no panels", file)
		}
		for _, p := range board.Panels {
			if len(p.Targets) == 0 {
				t.Errorf("%s: panel %s asks nothing", file, p.Title)
			}
			for _, target := range p.Targets {
				all = append(all, query{filepath.Base(file) + ": " + p.Title, grafanaVariables.Replace(target.Expr)})
			}
		}
	}
	if len(files) == 0 {
		t.Fatal("there are no dashboards")
	}
	return all
}

// lab is an agent under load, with a Prometheus beside it.
type lab struct {
	t         *testing.T
	net       *topo.Network
	agent     *cluster.Agent
	manifests cluster.Manifests
	laptop    *topo.Client
	rounds    int
}

const prometheusAt = "127.0.0.1:9090"

func newLab(t *testing.T) *lab {
	t.Helper()
	needs(t, "prometheus")
	needs(t, "nft")
	n, err := topo.New(topo.Options{Nodes: 1, PodNetwork: topo.Routed, XDPPeers: true})
	check(t, err)
	t.Cleanup(func() { check(t, n.Close()) })
	l := &lab{t: t, net: n, manifests: cluster.Manifests{Dir: t.TempDir()}}
	check(t, l.manifests.WriteNode(n.Nodes[0]))
	pod, err := n.Nodes[0].AddPod("web", topo.PodOptions{})
	check(t, err)
	_, err = pod.Serve(topo.Ports{HTTP: []uint16{8080}})
	check(t, err)
	check(t, l.manifests.WritePod(pod, "app: web"))
	check(t, l.manifests.Write("services.yaml", services))
	l.changeEndpoints()
	l.agent = cluster.NewAgent(n, n.Nodes[0], cluster.AgentOptions{Binary: binary, Manifests: l.manifests.Dir, Dir: t.TempDir(),
		Args: []string{"--xdp=always", "--sync-period=2s", "--map-size=flows4=65536,flows6=65536,backends=4096,slots=16384"}})
	t.Cleanup(func() {
		l.agent.Kill()
		check(t, l.agent.Cleanup())
	})
	check(t, n.Nodes[0].Command("nft", "add", "table", "ip", "kube-proxy").Run()) // is a finding
	check(t, l.agent.Start())
	l.laptop, err = n.Laptop.Client()
	check(t, err)
	t.Cleanup(func() { check(t, l.laptop.Close()) })
	l.startPrometheus()
	return l
}

// services has one that works, one without endpoints, and one whose endpoints are elsewhere and have no selector.
const services = `apiVersion: v1
kind: Service
metadata: {name: web}
spec: {type: NodePort, selector: {app: web}, ports: [{port: 80, targetPort: 8080, nodePort: 30080}]}
---
apiVersion: v1
kind: Service
metadata: {name: none}
spec: {type: NodePort, selector: {app: none}, ports: [{port: 80, nodePort: 30081}]}
---
apiVersion: v1
kind: Service
metadata: {name: manual}
spec: {type: NodePort, externalTrafficPolicy: Local, ports: [{port: 80, nodePort: 30082}]}
`

// changeEndpoints changes an endpoint, as of now.
func (l *lab) changeEndpoints() {
	l.t.Helper()
	l.rounds++
	check(l.t, l.manifests.Write("slice.yaml", fmt.Sprintf(`apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: manual-1
  labels: {kubernetes.io/service-name: manual}
  annotations: {endpoints.kubernetes.io/last-change-trigger-time: "%s"}
addressType: IPv4
ports: [{port: 80, protocol: TCP}]
endpoints: [{addresses: [10.9.9.%d]}]
`, time.Now().UTC().Format(time.RFC3339Nano), l.rounds%250+1)))
}

// startPrometheus has it scrape each second, by the configuration in deploy/.
func (l *lab) startPrometheus() {
	l.t.Helper()
	dir := l.t.TempDir()
	config, err := os.ReadFile(deploy + "scrape-node.yaml")
	check(l.t, err)
	check(l.t, os.WriteFile(filepath.Join(dir, "scrape.yaml"), []byte(strings.Replace(string(config), "15s", "1s", 1)), 0o644))
	rules, err := os.ReadFile(deploy + "rules.yaml")
	check(l.t, err)
	check(l.t, os.WriteFile(filepath.Join(dir, "rules.yaml"), rules, 0o644))
	log, err := os.Create(filepath.Join(dir, "log"))
	check(l.t, err)
	cmd := l.net.Nodes[0].Command("prometheus", "--config.file="+filepath.Join(dir, "scrape.yaml"),
		"--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+prometheusAt)
	cmd.Stdout, cmd.Stderr = log, log
	check(l.t, cmd.Start())
	l.t.Cleanup(func() {
		check(l.t, cmd.Stop(topo.Patient(10*time.Second)))
		if raw, _ := os.ReadFile(log.Name()); l.t.Failed() {
			l.t.Logf("Prometheus:\n%s", raw)
		}
		log.Close()
	})
}

// work is what makes the counters move.
func (l *lab) work() {
	l.changeEndpoints()
	l.laptop.Get(topo.Request{To: l.nodePort(30080)})
	l.laptop.Get(topo.Request{To: l.nodePort(30081)})                                  // refused
	l.laptop.Get(topo.Request{To: l.nodePort(30082), Timeout: 100 * time.Millisecond}) // dropped
	_, _ = l.agent.CLI("bundle", "--events=0", "-")                                    // asks for /healthz, too
}

// ask has promtool ask; what has no number is no data.
func (l *lab) ask(expr string) (values []string, err error) {
	out, err := l.net.Nodes[0].Command("promtool", "query", "instant", "-o", "json", "http://"+prometheusAt, expr).CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var samples []struct {
		Metric map[string]string
		Value  [2]any
	}
	if err := json.Unmarshal(out, &samples); err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	for _, s := range samples {
		if value := fmt.Sprint(s.Value[1]); value != "NaN" {
			values = append(values, s.Metric["__name__"]+" "+value)
		}
	}
	return values, nil
}

// TestDashboards: each query of each dashboard has an answer where an agent works, and each metric that a dashboard or
// an alert names is one that the agent has.
func TestDashboards(t *testing.T) {
	l := newLab(t)
	left := dashboardQueries(t)
	l.spoilMap()
	for deadline := time.Now().Add(topo.Patient(2 * time.Minute)); len(left) > 0; {
		l.work()
		var why []string
		left = slices.DeleteFunc(left, func(q query) bool {
			values, err := l.ask(q.expr)
			if err != nil {
				why = append(why, fmt.Sprintf("%s: %s: %v", q.from, q.expr, err))
			} else if len(values) == 0 {
				why = append(why, fmt.Sprintf("%s: %s: no data", q.from, q.expr))
			}
			return len(values) > 0
		})
		if time.Now().After(deadline) {
			t.Fatal(strings.Join(why, "\n"))
		}
	}
	known, err := l.ask(`{job="waggle"}`)
	check(t, err)
	names := map[string]bool{}
	for _, k := range known {
		names[strings.Fields(k)[0]] = true
	}
	all := dashboardQueries(t)
	for _, rule := range readRules(t).Groups[0].Rules {
		all = append(all, query{rule.Alert, rule.Expr})
	}
	used := 0
	for _, q := range all {
		for _, name := range metricNames.FindAllString(q.expr, -1) {
			if used++; !names[name] {
				t.Errorf("%s: there is no metric %s", q.from, name)
			}
		}
	}
	if used < len(all) {
		t.Errorf("%d queries name %d metrics", len(all), used)
	}
}

// metricNames finds those of the exporters that an agent has; up is Prometheus' own.
var metricNames = regexp.MustCompile(`\b(?:up|(?:waggle|kubeproxy|process|go|rest_client)_[a-z0-9_]+)\b`)

// spoilMap changes a map behind the agent's back, so that the agent repairs it.
func (l *lab) spoilMap() {
	l.t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(l.agent.PinDir, "maps", "node_addrs4"), nil)
	check(l.t, err)
	defer m.Close()
	key, err := m.NextKeyBytes(nil)
	check(l.t, err)
	check(l.t, m.Delete(key))
}

func (l *lab) nodePort(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(l.net.Nodes[0].IP4, port)
}

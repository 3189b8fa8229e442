// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kube-proxy/config/v1alpha1"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"

	"github.com/waggle-lb/waggle/control/config"
	"github.com/waggle-lb/waggle/test/topo"
)

// Row 32: what is served beside the metrics.
func TestRow32MetricsServer(t *testing.T) {
	settings, err := config.Default()
	must(t, err)
	settings.Effective.HostnameOverride = thisNode
	settings.Effective.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("KubeProxyConfiguration"))
	f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Serve.Configz = settings.Effective }).start()
	address := f.cfg.Serve.Metrics

	if body, _ := f.awaitStatus(address, "/proxyMode", 200); body != "waggle" {
		t.Errorf("/proxyMode answers %q", body)
	}
	if body, _ := f.awaitStatus(address, "/healthz", 200); body != "ok" {
		t.Errorf("/healthz answers %q", body)
	}
	body, _ := f.awaitStatus(address, "/configz", 200)
	var shown map[string]*v1alpha1.KubeProxyConfiguration
	must(t, json.Unmarshal([]byte(body), &shown))
	if diff := cmp.Diff(settings.Effective, shown["kubeproxy.config.k8s.io"], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("configz (-want +got):\n%s", diff)
	}
	f.awaitStatus(address, "/metrics/slis", 200)
	f.awaitStatus(address, "/debug/pprof/", 404)
	f.awaitStatus(address, "/debug/pprof/cmdline", 404)
	f.awaitStatus(address, "/nosuch", 404)
}

func TestProfiling(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Serve.Profiling = true }).start()
	if body, _ := f.awaitStatus(f.cfg.Serve.Metrics, "/debug/pprof/", 200); !strings.Contains(body, "goroutine") {
		t.Errorf("/debug/pprof/ answers %s", body)
	}
	f.awaitStatus(f.cfg.Serve.Metrics, "/debug/pprof/heap", 200)
	f.awaitStatus(f.cfg.Serve.Metrics, "/debug/pprof/symbol", 200)
	f.awaitStatus(f.cfg.Serve.Metrics, "/debug/pprof/profile?seconds=1", 200)
}

// An address that is somebody else's is told, and taken when it is free.
func TestAddressInUse(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil)
	one, two := occupy(t, f.cfg.Serve.Healthz), occupy(t, f.cfg.Serve.Metrics)
	f.start()
	f.awaitWarning("serving healthz: listen tcp "+f.cfg.Serve.Healthz+": bind: address already in use", true)
	f.awaitWarning("serving metrics: listen tcp "+f.cfg.Serve.Metrics+": bind: address already in use", true)
	f.begin()
	must(t, one.Close())
	must(t, two.Close())
	f.awaitStatus(f.cfg.Serve.Healthz, "/healthz", 200)
	f.awaitStatus(f.cfg.Serve.Metrics, "/metrics", 200)
	f.awaitWarning("serving", false)
}

func TestAddressInUseFatal(t *testing.T) {
	for _, name := range []string{"healthz", "metrics"} {
		f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Serve.HardFail = true })
		address := map[string]string{"healthz": f.cfg.Serve.Healthz, "metrics": f.cfg.Serve.Metrics}[name]
		occupy(t, address)
		err := f.Run(t.Context())
		if want := "serving " + name + ": listen tcp " + address; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestNoServers(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Serve = ServeConfig{} })
	servers, err := f.servers()
	must(t, err)
	if len(servers) != 0 {
		t.Errorf("%d servers with no address", len(servers))
	}
	f.start()
}

// Row 31: /healthz and /livez over a life: starting, working, stuck, working again.
func TestRow31Health(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	address := f.cfg.Serve.Healthz
	f.awaitStatus(address, "/livez", 200)
	f.awaitStatus(address, "/healthz", 503) // whether the node may have traffic is not known yet
	f.begin(serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1"))
	body, header := f.awaitStatus(address, "/healthz", 200)
	var health healthcheck.ProxyHealth
	must(t, json.Unmarshal([]byte(body), &health))
	if !health.Healthy || !*health.NodeEligible || len(health.Status) != 2 || health.LastUpdated.IsZero() {
		t.Errorf("/healthz answers %s", body)
	}
	if header.Get("Content-Type") != "application/json" {
		t.Errorf("header %v", header)
	}

	// The map holds four.
	more := fleet(5)
	deliver(f.sink, more...)
	f.awaitStatus(address, "/livez", 503)
	body, _ = f.awaitStatus(address, "/healthz", 503)
	must(t, json.Unmarshal([]byte(body), &health))
	if health.Healthy || health.Status[v1.IPv4Protocol].Healthy || !health.Status[v1.IPv6Protocol].Healthy {
		t.Errorf("stuck with IPv4, /healthz answers %s", body)
	}
	for _, svc := range more {
		f.sink.OnService(svc.(*v1.Service), nil)
	}
	f.awaitStatus(address, "/livez", 200)
	f.awaitStatus(address, "/healthz", 200)
}

// Row 31: a node that is going away fails /healthz, which load balancers ask, but not /livez.
func TestRow31Node(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	address := f.cfg.Serve.Healthz
	here := nodeAt("127.0.0.1")
	f.begin(here, nodeObject("node-b", ""))
	f.awaitStatus(address, "/healthz", 200)
	for what, going := range map[string]*v1.Node{
		"taint":   nodeAt("127.0.0.1", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: healthcheck.ToBeDeletedTaint}} }),
		"marked":  nodeAt("127.0.0.1", func(n *v1.Node) { n.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)} }),
		"deleted": nil,
	} {
		f.sink.OnNode(here, going)
		if status, body, _ := get(address, "/healthz"); status != 503 || !strings.Contains(body, `"nodeEligible":false`) {
			t.Errorf("%s: /healthz answers %d: %s", what, status, body)
		}
		if status, body, _ := get(address, "/livez"); status != 200 {
			t.Errorf("%s: /livez answers %d: %s", what, status, body)
		}
		f.sink.OnNode(going, here)
		f.awaitStatus(address, "/healthz", 200)
	}
	f.sink.OnNode(nodeObject("node-b", ""), nil)
	if status, body, _ := get(address, "/healthz"); status != 200 {
		t.Errorf("another node is deleted: /healthz answers %d: %s", status, body)
	}
}

// Clients that send their request slowly, that ask nothing more, or that don't read the answer lose
// their connections, at each server of the agent.
func TestSlowClients(t *testing.T) {
	usual := clientTimeouts
	t.Cleanup(func() { clientTimeouts = usual })
	clientTimeouts = httpTimeouts{read: 100 * time.Millisecond, write: usual.write, idle: 100 * time.Millisecond}
	f := newAgentFixture(t, &testSource{}, nil).start()
	check := freeAddress(t)
	f.begin(nodeAt("127.0.0.1"), serviceObject("web", "10.96.0.1", healthChecked(portOf(check))), on(sliceObject("web", "10.1.0.1"), thisNode))
	f.awaitStatus(check, "/", 200)
	for name, address := range map[string]string{"healthz": f.cfg.Serve.Healthz, "metrics": f.cfg.Serve.Metrics, "service": check} {
		f.awaitStatus(address, "/healthz", 200)
		for what, request := range map[string]string{
			"half a request": "GET /healthz HTTP/1.1\r\nHost: a\r\n",
			"half a body":    "POST /healthz HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345",
			"one request":    "GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n",
		} {
			c, err := net.Dial("tcp", address)
			must(t, err)
			_, err = c.Write([]byte(request))
			must(t, err)
			must(t, c.SetDeadline(time.Now().Add(topo.Patient(20*time.Second))))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("%s, %s: the connection stays", name, what)
			}
			must(t, c.Close())
		}
	}
}

// Who asks for a long answer and doesn't read it gets no longer than the write timeout.
func TestWriteTimeout(t *testing.T) {
	usual := clientTimeouts
	t.Cleanup(func() { clientTimeouts = usual })
	clientTimeouts = httpTimeouts{read: usual.read, write: 100 * time.Millisecond, idle: usual.idle}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	failed := make(chan error, 1)
	s := newHTTPServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for {
			if _, err := w.Write(make([]byte, 1<<20)); err != nil {
				failed <- err
				return
			}
		}
	}))
	go s.Serve(l) //nolint:errcheck // it ends when it is closed
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	must(t, err)
	defer c.Close()
	_, err = c.Write([]byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n"))
	must(t, err)
	select {
	case <-failed:
	case <-time.After(topo.Patient(20 * time.Second)):
		t.Error("the server waits for a client that does not read")
	}
}

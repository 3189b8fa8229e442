// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-proxy/config/v1alpha1"

	"github.com/waggle-lb/waggle/control/config"
	"github.com/waggle-lb/waggle/control/serve/servetest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// Row 32: what is served beside the metrics.
func TestRow32MetricsServer(t *testing.T) {
	settings, err := config.Default()
	must(t, err)
	settings.Effective.HostnameOverride = "node-a"
	settings.Effective.SetGroupVersionKind(v1alpha1.SchemeGroupVersion.WithKind("KubeProxyConfiguration"))
	f := newFixture(t, func(c *Config) { c.Configz = settings.Effective }).start()
	address := f.cfg.Metrics

	if body, _ := servetest.AwaitStatus(t, address, "/proxyMode", 200); body != "waggle" {
		t.Errorf("/proxyMode answers %q", body)
	}
	if body, _ := servetest.AwaitStatus(t, address, "/healthz", 200); body != "ok" {
		t.Errorf("/healthz answers %q", body)
	}
	body, _ := servetest.AwaitStatus(t, address, "/configz", 200)
	var shown map[string]*v1alpha1.KubeProxyConfiguration
	must(t, json.Unmarshal([]byte(body), &shown))
	if diff := cmp.Diff(settings.Effective, shown["kubeproxy.config.k8s.io"], cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("configz (-want +got):\n%s", diff)
	}
	servetest.AwaitStatus(t, address, "/metrics/slis", 200)
	servetest.AwaitStatus(t, address, "/debug/pprof/", 404)
	servetest.AwaitStatus(t, address, "/debug/pprof/cmdline", 404)
	servetest.AwaitStatus(t, address, "/nosuch", 404)
}

func TestProfiling(t *testing.T) {
	f := newFixture(t, func(c *Config) { c.Profiling = true }).start()
	if body, _ := servetest.AwaitStatus(t, f.cfg.Metrics, "/debug/pprof/", 200); !strings.Contains(body, "goroutine") {
		t.Errorf("/debug/pprof/ answers %s", body)
	}
	servetest.AwaitStatus(t, f.cfg.Metrics, "/debug/pprof/heap", 200)
	servetest.AwaitStatus(t, f.cfg.Metrics, "/debug/pprof/symbol", 200)
	servetest.AwaitStatus(t, f.cfg.Metrics, "/debug/pprof/profile?seconds=1", 200)
}

// An address that another program holds is reported, and taken when it is free.
func TestAddressInUse(t *testing.T) {
	f := newFixture(t, nil)
	one, two := servetest.Occupy(t, f.cfg.Healthz), servetest.Occupy(t, f.cfg.Metrics)
	f.start()
	f.awaitWarning("serving healthz: listen tcp "+f.cfg.Healthz+": bind: address already in use", true)
	f.awaitWarning("serving metrics: listen tcp "+f.cfg.Metrics+": bind: address already in use", true)
	f.health.SetNode(&v1.Node{})
	must(t, one.Close())
	must(t, two.Close())
	servetest.AwaitStatus(t, f.cfg.Healthz, "/healthz", 200)
	servetest.AwaitStatus(t, f.cfg.Metrics, "/metrics", 200)
	f.awaitWarning("serving", false)
}

func TestAddressInUseFatal(t *testing.T) {
	for _, name := range []string{"healthz", "metrics"} {
		f := newFixture(t, func(c *Config) { c.HardFail = true })
		address := map[string]string{"healthz": f.cfg.Healthz, "metrics": f.cfg.Metrics}[name]
		servetest.Occupy(t, address)
		err := Start(t.Context(), f.cfg, f.health, f.facts, f.warn)
		if want := "serving " + name + ": listen tcp " + address; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}

func TestNoServers(t *testing.T) {
	f := newFixture(t, func(c *Config) { *c = Config{} })
	all, err := (&servers{f.cfg, f.health, f.facts, f.warn}).list()
	must(t, err)
	if len(all) != 0 {
		t.Errorf("%d servers with no address", len(all))
	}
}

// Clients that send their request slowly, that ask nothing more, or that don't read the answer lose
// their connections, at each server of the agent.
func TestSlowClients(t *testing.T) {
	usual := clientTimeouts
	t.Cleanup(func() { clientTimeouts = usual })
	clientTimeouts = httpTimeouts{read: 100 * time.Millisecond, write: usual.write, idle: 100 * time.Millisecond}
	f := newFixture(t, nil).start()
	check := servetest.FreeAddress(t)
	f.health.SetNode(&v1.Node{})
	checks := NewServiceHealth("node-a", onLoopback{}, f.health, nil)
	checks.SetNodeIPs(nil)
	t.Cleanup(func() { must(t, checks.Sync(maps.IPv4, nil, nil)) })
	web := types.NamespacedName{Namespace: "default", Name: "web"}
	must(t, checks.Sync(maps.IPv4, map[types.NamespacedName]uint16{web: netip.MustParseAddrPort(check).Port()}, map[types.NamespacedName]int{web: 1}))
	servetest.AwaitStatus(t, check, "/", 200)
	for name, address := range map[string]string{"healthz": f.cfg.Healthz, "metrics": f.cfg.Metrics, "service": check} {
		servetest.AwaitStatus(t, address, "/healthz", 200)
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

// A client that asks for a long answer and doesn't read it gets no longer than the write timeout.
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

// SPDX-License-Identifier: Apache-2.0

// Package serve answers over HTTP, as kube-proxy does: whether the node's proxy keeps up, whether services
// have endpoints here, and what is measured.
package serve

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"time"

	"k8s.io/component-base/configz"
	"k8s.io/component-base/metrics/prometheus/slis"
	"k8s.io/kube-proxy/config/v1alpha1"
	kubeproxy "k8s.io/kubernetes/pkg/proxy/apis/config"
	netutils "k8s.io/utils/net"

	"github.com/waggle-lb/waggle/control/source"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/maps"
)

// Config says what an agent serves over HTTP. An address is IP:port; without an address there is no server.
type Config struct {
	Healthz   string // /healthz and /livez
	Metrics   string // /metrics, /healthz, /readyz, /proxyMode, /configz and, with Profiling, /debug/pprof/
	Probes    string // /livez and /readyz, for the pod's own probes
	HardFail  bool   // the agent ends if it can't listen on an address; else it tries again
	Profiling bool
	// The number of service ports and backends that have series: those with the most bytes.
	MetricsServices, MetricsBackends int
	// Configz is what /configz shows, under kubeproxy.config.k8s.io; nil for nothing.
	Configz *v1alpha1.KubeProxyConfiguration
}

// proxyMode is the answer to /proxyMode. It is none of kube-proxy's modes.
const proxyMode = "waggle"

// serveAgain is the interval between attempts to listen on an address, as in kube-proxy.
const serveAgain = 5 * time.Second

// Facts are what the servers show of an agent. They call its functions for each request.
type Facts struct {
	Version string
	Node    string // its name
	Maps    maps.Provider
	Source  source.Source
	Proxy   func() status.Proxy
	Size    func() Size
	Devices func() []status.Device
	Flows   func() status.FlowCensus
	Names   func() *status.Names // nil: names of Services are not answered
	// Repairs counts by map the elements that other programs have changed and the agent has repaired.
	Repairs func() map[string]int
	// Announced counts the addresses of load balancers that this node announces.
	Announced func() Announced
	// Findings counts what was found on the node by severity, and by what it is about.
	Findings func() map[string]map[string]int
}

// Size is how much the proxy has in force.
type Size struct {
	Synced              bool // the source has delivered everything once
	Failures            int  // service ports that could not be written completely
	Services, Frontends map[maps.Family]int
	Backends            int // endpoints, counted for each service port that has them
}

// Announced is what the node announces.
type Announced struct {
	Announces bool   // it would
	Held      int    // addresses
	Moves     uint64 // how often it began to announce one, since the agent started
	Members   int    // other agents that are alive, or restart
}

// server is one HTTP server of the agent.
type server struct {
	name    string
	address string
	handler http.Handler
}

// servers are those of one agent.
type servers struct {
	cfg    Config
	health *Health
	facts  Facts
	warn   func(about string, err error)
}

// Start starts the servers, which last until ctx is done. It fails only if it can't listen on an
// address and cfg.HardFail is set. Otherwise it calls warn with what is wrong with a server, and with
// nil when the server works.
func Start(ctx context.Context, cfg Config, health *Health, facts Facts, warn func(about string, err error)) error {
	s := &servers{cfg, health, facts, warn}
	all, err := s.list()
	if err != nil {
		return err
	}
	if cfg.HardFail {
		for _, one := range all {
			if err := probe(ctx, one.address); err != nil {
				return fmt.Errorf("serving %s: %w", one.name, err)
			}
		}
	}
	for _, one := range all {
		go s.keepServing(ctx, one)
	}
	return nil
}

// list returns the servers that the configuration asks for.
func (s *servers) list() (all []server, err error) {
	if s.cfg.Healthz != "" {
		all = append(all, server{"healthz", s.cfg.Healthz, s.health.handler()})
	}
	if s.cfg.Metrics != "" {
		handler, err := s.metricsHandler()
		if err != nil {
			return nil, err
		}
		all = append(all, server{"metrics", s.cfg.Metrics, handler})
	}
	if s.cfg.Probes != "" {
		all = append(all, server{"probes", s.cfg.Probes, s.probeHandler()})
	}
	return all, nil
}

func (s *servers) keepServing(ctx context.Context, one server) {
	for ctx.Err() == nil {
		// A server does not report that it listens, and the warning has to end then.
		err := probe(ctx, one.address)
		s.warn("serving "+one.name, err)
		if err == nil {
			if err = listenAndServe(ctx, one.address, one.handler); err != nil {
				s.warn("serving "+one.name, err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(serveAgain):
		}
	}
}

// probe reports whether the agent can listen on an address.
func probe(ctx context.Context, address string) error {
	l, err := listen(ctx, address)
	if err != nil {
		return err
	}
	return l.Close()
}

// httpTimeouts limit how long a client may take. Some servers answer to any client: one that sends or
// reads slowly, or not at all, must not occupy a connection for long.
type httpTimeouts struct {
	read  time.Duration // to send its request
	write time.Duration // to read the answer, from the request's end; a profile takes half a minute
	idle  time.Duration // between two requests
}

var clientTimeouts = httpTimeouts{read: 10 * time.Second, write: time.Minute, idle: 2 * time.Minute}

// newHTTPServer makes each HTTP server of the agent.
func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{
		Handler:     handler,
		ReadTimeout: clientTimeouts.read, WriteTimeout: clientTimeouts.write, IdleTimeout: clientTimeouts.idle,
	}
}

func listen(ctx context.Context, address string) (net.Listener, error) {
	return netutils.MultiListen(ctx, "tcp", address)
}

func listenAndServe(ctx context.Context, address string, handler http.Handler) error {
	l, err := listen(ctx, address)
	if err != nil {
		return err
	}
	s := newHTTPServer(handler)
	stop := context.AfterFunc(ctx, func() { _ = s.Close() })
	defer stop()
	if err := s.Serve(l); ctx.Err() == nil {
		return err
	}
	return nil
}

// metricsHandler answers as the metrics server of kube-proxy does.
func (s *servers) metricsHandler() (http.Handler, error) {
	metrics, err := metricsOf(s.facts, s.cfg)
	if err != nil {
		return nil, err
	}
	m := http.NewServeMux()
	m.HandleFunc("/healthz", answerPing)
	m.HandleFunc("/healthz/ping", answerPing)
	slis.SLIMetricsWithReset{}.Install(m)
	m.Handle("/metrics", metrics)
	m.Handle("/readyz", answerProbe(s.ready))
	m.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = fmt.Fprint(w, proxyMode)
	})
	if s.cfg.Profiling {
		serveProfiles(m)
	}
	if s.cfg.Configz != nil {
		// It belongs to the process: with several agents in one process, it shows the last one's.
		configz.Delete(kubeproxy.GroupName)
		shown, err := configz.New(kubeproxy.GroupName)
		if err != nil {
			return nil, err
		}
		if err := shown.Set(s.cfg.Configz); err != nil {
			return nil, fmt.Errorf("configz: %w", err)
		}
	}
	configz.InstallHandler(m)
	return m, nil
}

// answerPing reports that the server answers, and counts that among the SLIs, as kube-proxy does.
func answerPing(w http.ResponseWriter, r *http.Request) {
	_ = slis.ObserveHealthcheck(r.Context(), "ping", "healthz", slis.Success) // it never fails
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = fmt.Fprint(w, "ok")
}

// serveProfiles serves what `go tool pprof` requests. Its index leads to the rest.
func serveProfiles(m *http.ServeMux) {
	m.HandleFunc("/debug/pprof/", pprof.Index)
	m.HandleFunc("/debug/pprof/profile", pprof.Profile)
	m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

// SPDX-License-Identifier: Apache-2.0

package control

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
)

// ServeConfig tells what an agent serves over HTTP. An address is IP:port; none, no server.
type ServeConfig struct {
	Healthz   string // /healthz and /livez
	Metrics   string // /metrics, /healthz, /readyz, /proxyMode, /configz and, with Profiling, /debug/pprof/
	Probes    string // /livez and /readyz, for the pod's own probes
	HardFail  bool   // an address that can't be had ends the agent; else it is tried again
	Profiling bool
	// Configz is what /configz shows, under kubeproxy.config.k8s.io; nil for nothing.
	Configz *v1alpha1.KubeProxyConfiguration
}

// proxyMode is what /proxyMode answers: none of kube-proxy's modes.
const proxyMode = "waggle"

// serveAgain is when an address that could not be had is tried again, as in kube-proxy.
const serveAgain = 5 * time.Second

// server is one HTTP server of the agent.
type server struct {
	name    string
	address string
	run     func(context.Context) error // listens, and serves until ctx is done or it fails
}

// servers lists what the agent is to serve.
func (a *Agent) servers() ([]server, error) {
	var out []server
	if a.cfg.Serve.Healthz != "" {
		out = append(out, server{"healthz", a.cfg.Serve.Healthz, func(ctx context.Context) error {
			return listenAndServe(ctx, a.cfg.Serve.Healthz, a.health.handler())
		}})
	}
	if a.cfg.Serve.Metrics != "" {
		handler, err := a.metricsHandler()
		if err != nil {
			return nil, err
		}
		out = append(out, server{"metrics", a.cfg.Serve.Metrics, func(ctx context.Context) error {
			return listenAndServe(ctx, a.cfg.Serve.Metrics, handler)
		}})
	}
	if a.cfg.Serve.Probes != "" {
		out = append(out, server{"probes", a.cfg.Serve.Probes, func(ctx context.Context) error {
			return listenAndServe(ctx, a.cfg.Serve.Probes, a.probeHandler())
		}})
	}
	return out, nil
}

// serve starts the servers, which last until ctx is done. It fails only if an address can't be had
// and that is to be fatal.
func (a *Agent) serve(ctx context.Context) error {
	all, err := a.servers()
	if err != nil {
		return err
	}
	if a.cfg.Serve.HardFail {
		for _, s := range all {
			if err := probe(ctx, s.address); err != nil {
				return fmt.Errorf("serving %s: %w", s.name, err)
			}
		}
	}
	for _, s := range all {
		go a.keepServing(ctx, s)
	}
	return nil
}

func (a *Agent) keepServing(ctx context.Context, s server) {
	for ctx.Err() == nil {
		// A server does not tell when it has begun to listen, and the warning is to go when it has.
		err := probe(ctx, s.address)
		a.warn("serving "+s.name, err)
		if err == nil {
			if err = s.run(ctx); err != nil {
				a.warn("serving "+s.name, err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(serveAgain):
		}
	}
}

// probe tells whether an address can be listened on.
func probe(ctx context.Context, address string) error {
	l, err := listen(ctx, address)
	if err != nil {
		return err
	}
	return l.Close()
}

// httpTimeouts are how long a client of ours may take. Some of our servers answer to anybody: one that
// sends slowly, or reads slowly, or nothing at all, must not keep a connection for itself.
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
func (a *Agent) metricsHandler() (http.Handler, error) {
	metrics, err := a.metrics()
	if err != nil {
		return nil, err
	}
	m := http.NewServeMux()
	m.HandleFunc("/healthz", answerPing)
	m.HandleFunc("/healthz/ping", answerPing)
	slis.SLIMetricsWithReset{}.Install(m)
	m.Handle("/metrics", metrics)
	m.Handle("/readyz", answerProbe(a.ready))
	m.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = fmt.Fprint(w, proxyMode)
	})
	if a.cfg.Serve.Profiling {
		serveProfiles(m)
	}
	if a.cfg.Serve.Configz != nil {
		// It is the process's: of several agents in one, the last one's is shown.
		configz.Delete(kubeproxy.GroupName)
		shown, err := configz.New(kubeproxy.GroupName)
		if err != nil {
			return nil, err
		}
		if err := shown.Set(a.cfg.Serve.Configz); err != nil {
			return nil, fmt.Errorf("configz: %w", err)
		}
	}
	configz.InstallHandler(m)
	return m, nil
}

// answerPing tells that the server answers, and counts that among the SLIs, as kube-proxy does.
func answerPing(w http.ResponseWriter, r *http.Request) {
	_ = slis.ObserveHealthcheck(r.Context(), "ping", "healthz", slis.Success) // it never fails
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	_, _ = fmt.Fprint(w, "ok")
}

// serveProfiles serves what `go tool pprof` asks for. Its index leads to the rest.
func serveProfiles(m *http.ServeMux) {
	m.HandleFunc("/debug/pprof/", pprof.Index)
	m.HandleFunc("/debug/pprof/profile", pprof.Profile)
	m.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
	m.HandleFunc("/debug/pprof/trace", pprof.Trace)
}

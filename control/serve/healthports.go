// SPDX-License-Identifier: Apache-2.0

package serve

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	proxyutil "k8s.io/kubernetes/pkg/proxy/util"

	"github.com/waggle-lb/waggle/maps"
)

// healthPorts are the health check node ports of one family's services. They answer as kube-proxy's
// do. The servers of its library have no timeouts for clients.
type healthPorts struct {
	nodeName  string
	healthy   func() bool
	recorder  events.EventRecorder // nil for none
	network   string
	addresses *proxyutil.NodePortAddresses

	open   map[types.NamespacedName]*healthPort
	failed map[string]bool // messages of the last sync
}

// healthNetworks are the networks that each family listens on.
var healthNetworks = map[maps.Family]string{maps.IPv4: "tcp4", maps.IPv6: "tcp6"}

// healthPort is one service's.
type healthPort struct {
	service   types.NamespacedName
	port      uint16
	healthy   func() bool
	endpoints atomic.Int64 // on this node, that are ready
	servers   []*http.Server
}

// sync listens on these ports and on no others. The error names the ports that it can't listen on.
// The Service gets an event for each new failure.
func (h *healthPorts) sync(ports map[types.NamespacedName]uint16, endpoints map[types.NamespacedName]int) error {
	for service, p := range h.open {
		if port, wanted := ports[service]; !wanted || port != p.port {
			p.close()
			delete(h.open, service)
		}
	}
	var errs []error
	failed := map[string]bool{}
	for service, port := range ports {
		if h.open[service] == nil {
			if err := h.listen(service, port); err != nil {
				errs = append(errs, err)
				failed[err.Error()] = true
				h.record(service, err)
				continue
			}
		}
		h.open[service].endpoints.Store(int64(endpoints[service]))
	}
	h.failed = failed
	return errors.Join(errs...)
}

// record makes an event of a failure, unless there was one at the last sync.
func (h *healthPorts) record(service types.NamespacedName, err error) {
	if h.recorder == nil || h.failed[err.Error()] {
		return
	}
	h.recorder.Eventf(&v1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: service.Namespace, Name: service.Name},
		nil, v1.EventTypeWarning, "FailedToStartServiceHealthcheck", "Listen", "%s", err.Error())
}

// listen serves a port on all addresses of the node that NodePorts answer on, or on none.
func (h *healthPorts) listen(service types.NamespacedName, port uint16) error {
	p := &healthPort{service: service, port: port, healthy: h.healthy}
	hosts, err := h.hosts()
	for _, host := range hosts {
		var l net.Listener
		if l, err = net.Listen(h.network, net.JoinHostPort(host, strconv.Itoa(int(port)))); err != nil {
			break
		}
		server := newHTTPServer(p)
		p.servers = append(p.servers, server)
		go server.Serve(l) //nolint:errcheck // it ends when it is closed
	}
	if err != nil {
		p.close()
		return fmt.Errorf("node %s failed to start healthcheck %q on port %d: %w", h.nodeName, service, port, err)
	}
	h.open[service] = p
	return nil
}

// hosts are the addresses to listen on; an empty one stands for all.
func (h *healthPorts) hosts() (all []string, err error) {
	if h.addresses.MatchAll() {
		return []string{""}, nil
	}
	ips, err := h.addresses.GetNodeIPs(proxyutil.RealNetwork{})
	for _, ip := range ips {
		all = append(all, ip.String())
	}
	return all, err
}

func (h *healthPorts) close() {
	for _, p := range h.open {
		p.close()
	}
}

func (p *healthPort) close() {
	for _, server := range p.servers {
		_ = server.Close()
	}
}

// ServeHTTP implements http.Handler.
func (p *healthPort) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	n, healthy := p.endpoints.Load(), p.healthy()
	body, _ := json.MarshalIndent(map[string]any{
		"service":        map[string]string{"namespace": p.service.Namespace, "name": p.service.Name},
		"localEndpoints": n, "serviceProxyHealthy": healthy,
	}, "", "\t")
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(n, 10))
	if n == 0 || !healthy {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_, _ = w.Write(body) // the client may have gone
}

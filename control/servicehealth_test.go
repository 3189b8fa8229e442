// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/waggle-lb/waggle/control/serve/servetest"
	"github.com/waggle-lb/waggle/test/await"
)

func healthChecked(port int32) func(*v1.Service) {
	return func(s *v1.Service) {
		s.Spec.Type = v1.ServiceTypeLoadBalancer
		s.Spec.ExternalTrafficPolicy = v1.ServiceExternalTrafficPolicyLocal
		s.Spec.HealthCheckNodePort = port
	}
}

// on puts the endpoints on nodes.
func on(slice *discovery.EndpointSlice, nodes ...string) *discovery.EndpointSlice {
	for i, n := range nodes {
		slice.Endpoints[i].NodeName = ptr.To(n)
	}
	return slice
}

// Row 30: the health check node port answers whether there are endpoints here, and how many.
func TestRow30HealthCheckNodePort(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	address := servetest.FreeAddress(t)
	svc := serviceObject("web", "10.96.0.1", healthChecked(portOf(address)))
	slice := func(nodes ...string) *discovery.EndpointSlice {
		return on(sliceObject("web", "10.1.0.1", "10.1.0.2", "10.1.0.3"), nodes...)
	}
	two, none := slice(thisNode, thisNode, "node-b"), slice("node-b", "node-b", "node-b")
	expect := func(status, endpoints int) {
		t.Helper()
		await.Until(t, func() (string, bool) {
			got, body, header := servetest.Get(address, "/whatever/path")
			var answer struct {
				Service             struct{ Namespace, Name string }
				LocalEndpoints      int
				ServiceProxyHealthy bool
			}
			ok := json.Unmarshal([]byte(body), &answer) == nil && got == status && answer.LocalEndpoints == endpoints &&
				answer.Service.Namespace == "default" && answer.Service.Name == "web" && answer.ServiceProxyHealthy &&
				header.Get("X-Load-Balancing-Endpoint-Weight") == fmt.Sprint(endpoints)
			return fmt.Sprintf("it answers %d: %s, header %v\nwant %d with %d endpoints", got, body, header, status, endpoints), ok
		})
	}
	f.begin(nodeAt("127.0.0.1"), svc, two)
	expect(200, 2)
	f.sink.OnEndpointSlice(two, none)
	expect(503, 0)
	f.sink.OnEndpointSlice(none, two)
	expect(200, 2)

	other := servetest.FreeAddress(t)
	moved := serviceObject("web", "10.96.0.1", healthChecked(portOf(other)))
	f.sink.OnService(svc, moved)
	f.awaitStatus(address, "/", 0)
	address = other
	expect(200, 2)
	f.sink.OnService(moved, nil)
	f.awaitStatus(address, "/", 0)
}

// Row 30: it is 503 while the proxy is stuck.
func TestRow30Stuck(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	address := servetest.FreeAddress(t)
	f.begin(nodeAt("127.0.0.1"), serviceObject("web", "10.96.0.1", healthChecked(portOf(address))), on(sliceObject("web", "10.1.0.1"), thisNode))
	f.awaitStatus(address, "/", 200)
	deliver(f.sink, fleet(5)...)
	if body, _ := f.awaitStatus(address, "/", 503); !strings.Contains(body, `"serviceProxyHealthy": false`) || !strings.Contains(body, `"localEndpoints": 1`) {
		t.Errorf("it answers %s", body)
	}
}

// A port that another program holds is reported, keeps nothing else from working, and is taken when free.
func TestHealthCheckPortInUse(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	taken, free := servetest.FreeAddress(t), servetest.FreeAddress(t)
	other := servetest.Occupy(t, taken)
	f.begin(nodeAt("127.0.0.1"),
		serviceObject("web", "10.96.0.1", healthChecked(portOf(taken))), on(sliceObject("web", "10.1.0.1"), thisNode),
		serviceObject("wiki", "10.96.0.2", healthChecked(portOf(free))), on(sliceObject("wiki", "10.1.0.2"), thisNode))
	f.awaitStatus(free, "/", 200)
	message := fmt.Sprintf(`failed to start healthcheck "default/web" on port %d`, portOf(taken))
	f.awaitWarning(message, true)
	must(t, other.Close())
	f.awaitStatus(taken, "/", 200) // at the next sync
	f.awaitWarning(message, false)
}

// The servers follow the node's addresses, where it holds them.
func TestHealthCheckAddressMoves(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, nil).start()
	address := servetest.FreeAddress(t)
	here, away := nodeAt("127.0.0.1"), nodeAt("192.0.2.1")
	f.begin(here, serviceObject("web", "10.96.0.1", healthChecked(portOf(address))), on(sliceObject("web", "10.1.0.1"), thisNode))
	f.awaitStatus(address, "/", 200)
	f.sink.OnNode(here, away)
	f.awaitStatus(address, "/", 0)
	f.sink.OnNode(away, here)
	f.awaitStatus(address, "/", 200)
}

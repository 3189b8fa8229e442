// SPDX-License-Identifier: Apache-2.0

package control

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/serve/servetest"
)

// What an agent says why it isn't ready, or live.
const (
	notDelivered = "the source has not delivered everything yet"
	behind       = "a change has not been written for two sync periods"
)

// TestProbes: the agent is live from the start, ready when what it was given is in the maps, and
// neither while a service can't be written. Another server at the address of /healthz, as kube-proxy
// is while both run, answers none of it.
func TestProbes(t *testing.T) {
	address := servetest.FreeAddress(t)
	f := newAgentFixture(t, &testSource{}, func(c *Config) { c.Serve.Probes = address })
	servetest.Occupy(t, f.cfg.Serve.Healthz)
	f.start()
	f.awaitStatus(address, "/livez", 200)
	if body, _ := f.awaitStatus(address, "/readyz", 503); !strings.Contains(body, notDelivered) {
		t.Errorf("before the source has delivered everything, /readyz answers %q", body)
	}
	f.begin(serviceObject("a", "10.96.0.1"), sliceObject("a", "10.1.0.1"))
	f.awaitStatus(address, "/readyz", 200)

	// The map holds four.
	more := fleet(5)
	deliver(f.sink, more...)
	for _, path := range []string{"/livez", "/readyz"} {
		if body, _ := f.awaitStatus(address, path, 503); !strings.Contains(body, behind) {
			t.Errorf("stuck, %s answers %q", path, body)
		}
	}
	for _, svc := range more {
		f.sink.OnService(svc.(*v1.Service), nil)
	}
	f.awaitStatus(address, "/readyz", 200)
	f.awaitStatus(address, "/nosuch", 404)
}

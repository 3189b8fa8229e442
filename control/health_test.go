// SPDX-License-Identifier: Apache-2.0

package control

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubernetes/pkg/proxy/healthcheck"

	"github.com/waggle-lb/waggle/control/serve/servetest"
)

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
		if status, body, _ := servetest.Get(address, "/healthz"); status != 503 || !strings.Contains(body, `"nodeEligible":false`) {
			t.Errorf("%s: /healthz answers %d: %s", what, status, body)
		}
		if status, body, _ := servetest.Get(address, "/livez"); status != 200 {
			t.Errorf("%s: /livez answers %d: %s", what, status, body)
		}
		f.sink.OnNode(going, here)
		f.awaitStatus(address, "/healthz", 200)
	}
	f.sink.OnNode(nodeObject("node-b", ""), nil)
	if status, body, _ := servetest.Get(address, "/healthz"); status != 200 {
		t.Errorf("another node is deleted: /healthz answers %d: %s", status, body)
	}
}

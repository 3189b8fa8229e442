// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestManifests reads the manifests as the agents do, with nothing to complain of, and finds the
// pods of each service on both nodes.
func TestManifests(t *testing.T) {
	d := newDemo(io.Discard, t.TempDir(), "")
	if err := os.Mkdir(d.manifests.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := d.copyManifests(); err != nil {
		t.Fatal(err)
	}
	if err := d.readServices(); err != nil {
		t.Fatal(err)
	}
	objects, err := readPods(atStart)
	if err != nil {
		t.Fatal(err)
	}
	for _, object := range objects {
		d.pods = append(d.pods, &place{nil, object})
	}
	for _, service := range []string{webService, publicService, backService, dnsService} {
		var nodes []string
		for _, p := range d.podsOf(service) {
			nodes = append(nodes, p.object.Spec.NodeName)
		}
		slices.Sort(nodes)
		if nodes = slices.Compact(nodes); len(nodes) != 2 {
			t.Errorf("service %s has pods on %v, want both nodes", service, nodes)
		}
		if !d.clusterIP(service, false).IsValid() || !d.clusterIP(service, true).IsValid() {
			t.Errorf("service %s lacks a cluster IP of each family: %v", service, d.services[service].Spec.ClusterIPs)
		}
	}
}

// TestJudge: work by another hook, or none by the one expected, is not passed over.
func TestJudge(t *testing.T) {
	node := &cluster.Agent{Node: &topo.Node{Host: &topo.Host{Name: "node-1"}}}
	for name, c := range map[string]struct {
		moved counted
		want  string // in the problems
	}{
		"as expected":        {counted{"node-1 xdp/express": 40, "node-1 tc-ingress/stack": 20}, ""},
		"late packets":       {counted{"node-1 xdp/express": 40, "node-1 tc-ingress/stack": 20, "node-2 tc-pod/stack": 2}, ""},
		"neighbours":         {counted{"node-1 xdp/express": 40, "node-1 tc-ingress/stack": 20, "node-1 tc-ingress/express": 9}, ""},
		"tc instead of XDP":  {counted{"node-1 tc-ingress/express": 40, "node-1 tc-ingress/stack": 20}, "xdp express on node-1 did nothing"},
		"on the other node":  {counted{"node-1 xdp/express": 40, "node-1 tc-ingress/stack": 20, "node-2 xdp/express": 9}, "xdp express on node-2 did what it should not"},
		"one packet dropped": {counted{"node-1 xdp/express": 40, "node-1 tc-ingress/stack": 20, "node-1 xdp/drop-ttl": 1}, "xdp drop-ttl on node-1"},
	} {
		_, problems := c.moved.judge(node, []string{tcStack, xdpExpress}, false)
		found := strings.Join(problems, "; ")
		if (c.want == "") != (found == "") || !strings.Contains(found, c.want) {
			t.Errorf("%s: problems %q, want %q", name, found, c.want)
		}
	}
}

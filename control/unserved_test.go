// SPDX-License-Identifier: Apache-2.0

package control

import (
	"slices"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"
	v1 "k8s.io/api/core/v1"

	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/test/await"
)

func onNodePort(port int32) func(*v1.Service) {
	return func(s *v1.Service) { s.Spec.Type, s.Spec.Ports[0].NodePort = v1.ServiceTypeNodePort, port }
}

// A node port that the programs don't look for is reported for as long as it is one: an API server
// may have another range than the agent.
func TestNodePortOutOfRange(t *testing.T) {
	f := newProxyFixture(t, nil)
	f.ServeNodePorts(node.PortRange{Min: 30000, Max: 32767})
	a := serviceObject("a", "10.96.0.1", onNodePort(20080))
	f.begin(a, serviceObject("b", "10.96.0.2", onNodePort(30000)), serviceObject("c", "10.96.0.3", onNodePort(32767)))
	want := []string{"service default/a:http (TCP, IPv4): nodePort 20080 is not served, it is outside of 30000-32767 (--nodeport-range)"}
	if got := f.Status().Failures; !slices.Equal(got, want) {
		t.Errorf("failures %q, want %q", got, want)
	}
	if got := f.size().Failures; got != 1 {
		t.Errorf("%d failures are counted, want 1", got)
	}
	if f.unfinished() {
		t.Error("it is tried again, which can't help")
	}
	f.full = true
	f.sync()
	if got := f.logged(logrus.WarnLevel); !slices.Equal(got, want) {
		t.Errorf("logged %q, want %q", got, want)
	}
	moved := serviceObject("a", "10.96.0.1", onNodePort(32768))
	f.OnService(a, moved)
	f.sync()
	if got := f.Status().Failures; len(got) != 1 || !strings.Contains(got[0], "nodePort 32768") {
		t.Errorf("failures %q", got)
	}
	f.OnService(moved, nil)
	f.sync()
	if got := f.Status().Failures; len(got) > 0 {
		t.Errorf("the service is gone, but: %q", got)
	}
	f.add(a)
	f.sync()
	f.OnService(a, serviceObject("a", "10.96.0.1"))
	f.sync()
	if got := f.Status().Failures; len(got) > 0 {
		t.Errorf("the node port is gone, but: %q", got)
	}
}

// The range is the one that the programs are loaded with.
func TestNodePortRangeOfAgent(t *testing.T) {
	f := newAgentFixture(t, &testSource{}, func(c *Config) {
		c.Loader.NodePortMin, c.Loader.NodePortMax = 30000, 30100
	}).start()
	f.begin(serviceObject("a", "10.96.0.1", onNodePort(30101)), serviceObject("b", "10.96.0.2", onNodePort(30100)))
	await.Until(t, func() (string, bool) {
		failures := f.proxy.Status().Failures
		return strings.Join(failures, "\n"), len(failures) == 1 && strings.Contains(failures[0], "30101 is not served, it is outside of 30000-30100")
	})
}

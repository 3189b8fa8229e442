// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/test/topo"
)

// short is how long a client waits whose packets are expected to be dropped.
const short = time.Second

// newExhausted starts an agent with little room for something, with a service here and one on
// node-2.
func newExhausted(t *testing.T, args ...string) (*setup, *topo.Client) {
	t.Helper()
	s := newSetup(t, true, args...)
	s.addService(t, local)
	s.addService(t, remote)
	s.addPod(t, s.Nodes[0], "local", "local")
	s.addPod(t, s.Nodes[1], "remote", "remote")
	s.start(t, 2*portsOfService)
	return s, client(t, s.Laptop)
}

// open opens a connection that is reset when it is closed, so that its resources are free soon.
func (s *setup) open(t *testing.T, from *topo.Client, v service, v6 bool) *topo.Stream {
	t.Helper()
	stream, reply := from.OpenTCP(topo.Request{To: s.nodePort(v, echoDigit, v6), Reset: true})
	check(t, reply.Error())
	return stream
}

// exchange checks that established connections still work.
func exchange(t *testing.T, streams ...*topo.Stream) {
	t.Helper()
	for i, stream := range streams {
		if reply := stream.Exchange(1000); !reply.OK() {
			t.Errorf("stream %d: %s", i, reply)
		}
	}
}

// reported waits until the agent's status and its log report a trouble.
func (s *setup) reported(t *testing.T, words string) {
	t.Helper()
	s.awaitStatus(t, words, func(st *status.Status) bool {
		return slices.ContainsFunc(append(st.Warnings, st.Proxy.Failures...), func(m string) bool { return strings.Contains(m, words) })
	})
	log, err := os.ReadFile(s.agent.LogFile)
	check(t, err)
	if !strings.Contains(string(log), words) {
		t.Errorf("the log has no line about %q", words)
	}
	out, err := s.agent.CLI("status")
	check(t, err)
	if !strings.Contains(out, words) {
		t.Errorf("waggle status shows nothing about %q:\n%s", words, out)
	}
}

// recovered waits until the agent has written all services.
func (s *setup) recovered(t *testing.T) {
	t.Helper()
	s.awaitStatus(t, "no failures", func(st *status.Status) bool { return len(st.Proxy.Failures) == 0 })
}

// metrics reads the agent's metrics.
func (s *setup) metrics(t *testing.T) string {
	t.Helper()
	web := http.Client{Transport: &http.Transport{DialContext: s.node.DialContext, DisableKeepAlives: true}}
	response, err := web.Get("http://" + net.JoinHostPort("127.0.0.1", "10249") + "/metrics")
	check(t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	check(t, err)
	return string(text)
}

func (s *setup) inMetrics(t *testing.T, words string) {
	t.Helper()
	if !strings.Contains(s.metrics(t), words) {
		t.Errorf("no %s in the metrics", words)
	}
}

// TestSNATPortsExhausted: established connections go on, other backends and families are not
// affected, and the next client is served when a port is free again.
func TestSNATPortsExhausted(t *testing.T) {
	const ports = 10
	s, laptop := newExhausted(t, "--snat-ports=50000-50009")
	var streams []*topo.Stream
	for range ports {
		streams = append(streams, s.open(t, laptop, remote, false))
	}
	exchange(t, streams...)
	refused := laptop.Connect(topo.Request{To: s.nodePort(remote, echoDigit, false), Timeout: short})
	if !refused.Timeout {
		t.Errorf("a client too many: %s", refused)
	}
	exchange(t, s.open(t, laptop, remote, true), s.open(t, laptop, local, false))
	s.reported(t, "source ports: all of --snat-ports are in use")
	s.inMetrics(t, `waggle_packets_total{hook="xdp",verdict="drop-snat-exhausted"}`)
	exchange(t, streams...)

	check(t, streams[0].Close().Error())
	awaitTrue(t, "a free port", func() bool {
		return laptop.Connect(topo.Request{To: s.nodePort(remote, echoDigit, false), Timeout: short, Reset: true}).OK()
	})
	exchange(t, streams[1:]...)
}

// TestFlowsExhausted: if all records in reach belong to established flows, new clients' packets are
// dropped, and those flows go on. A flow that has ended makes room.
func TestFlowsExhausted(t *testing.T) {
	const most = 32 // flows of two records that the table can hold when it is full
	s, laptop := newExhausted(t, "--map-size=flows4=16")
	var streams []*topo.Stream
	full := func() bool { return total(s.counters(t), bpf.VerdictDropFlowsFull) > 0 }
	for range most + 1 {
		stream, reply := laptop.OpenTCP(topo.Request{To: s.nodePort(local, echoDigit, false), Timeout: short, Reset: true})
		if !reply.OK() {
			break
		}
		streams = append(streams, stream)
	}
	if !full() || len(streams) < 16 {
		t.Fatalf("%d streams were opened, the table was full: %t", len(streams), full())
	}
	s.reported(t, "table of flows: flows4 or flows6 is full")
	s.inMetrics(t, `verdict="drop-flows-full"`)
	exchange(t, streams...)

	for _, stream := range streams[:4] {
		check(t, stream.Close().Error())
	}
	awaitTrue(t, "room", func() bool {
		return laptop.Connect(topo.Request{To: s.nodePort(local, echoDigit, false), Timeout: short, Reset: true}).OK()
	})
	exchange(t, streams[4:]...)
}

// third is one more service, for which there may be no room.
var third = service{"third", 3}

// TestServicesExhausted: services that find no room are reported, and served when there is room.
func TestServicesExhausted(t *testing.T) {
	s, laptop := newExhausted(t, "--map-size=services4=12") // each port has a cluster IP and a node port
	stream := s.open(t, laptop, local, false)
	s.addPod(t, s.Nodes[0], "third", "third")
	s.addService(t, third)
	s.reported(t, "the map services4 is full (12 elements)")
	s.inMetrics(t, `waggle_map_elements{map="services4"} 12`)
	s.stillServed(t, laptop, local, remote)
	if reply := laptop.Get(topo.Request{To: s.nodePort(third, httpDigit, true)}); !reply.OK() {
		t.Errorf("IPv6 has room: %s", reply)
	}

	check(t, s.manifests.Remove("remote.yaml"))
	s.recovered(t)
	s.stillServed(t, laptop, local, third)
	exchange(t, stream)
}

// TestBackendsExhausted: the same for backends.
func TestBackendsExhausted(t *testing.T) {
	s, laptop := newExhausted(t, "--map-size=backends=13") // element 0 is never used
	stream := s.open(t, laptop, local, false)
	s.addPod(t, s.Nodes[0], "third", "third")
	s.addService(t, third)
	s.reported(t, "out of backend ids: all 12 are in use")
	s.stillServed(t, laptop, local, remote)

	check(t, s.manifests.Remove("remote.yaml"))
	s.recovered(t)
	s.stillServed(t, laptop, local, third)
	exchange(t, stream)
}

// TestSlotsExhausted: a service that finds no slots for its new endpoints keeps its old ones.
func TestSlotsExhausted(t *testing.T) {
	s, laptop := newExhausted(t, "--map-size=slots=16") // 12 in use, and a block of 4
	stream := s.open(t, laptop, local, false)
	s.addPod(t, s.Nodes[0], "local2", "local")
	s.reported(t, "contiguous slots are free of 16")
	s.stillServed(t, laptop, local, remote)
	exchange(t, stream)

	check(t, s.manifests.Remove("remote.yaml"))
	s.recovered(t)
	seen := map[string]bool{}
	awaitTrue(t, "both endpoints", func() bool {
		seen[laptop.Get(topo.Request{To: s.nodePort(local, httpDigit, false)}).Pod] = true
		return seen["local"] && seen["local2"]
	})
	exchange(t, stream)
}

// stillServed checks that services answer on all of their frontends.
func (s *setup) stillServed(t *testing.T, from *topo.Client, services ...service) {
	t.Helper()
	for _, v := range services {
		for _, v6 := range bothFamilies {
			for _, reply := range []topo.Reply{
				from.Get(topo.Request{To: s.nodePort(v, httpDigit, v6)}),
				from.UDPConnected(topo.Request{To: s.nodePort(v, dnsDigit, v6)}),
			} {
				if !reply.OK() {
					t.Errorf("%s, %s: %s", v.app, familyName(v6), reply)
				}
			}
		}
	}
}

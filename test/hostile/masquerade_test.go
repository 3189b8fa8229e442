// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// There are as many nodePorts of TCP as of UDP.
const (
	firstNodePort = 32000
	nodePorts     = 250
)

// outsideService is one of many NodePorts whose endpoint is a host outside the cluster. Masqueraded
// pods connect to this host, too.
func outsideService(endpoint netip.Addr) string {
	var ports strings.Builder
	for i := range nodePorts {
		fmt.Fprintf(&ports, `  - {name: echo-%[1]d, port: %[2]d, nodePort: %[2]d}
  - {name: dns-%[1]d, port: %[2]d, nodePort: %[2]d, protocol: UDP}
`, i, firstNodePort+i)
	}
	var targets strings.Builder
	for i := range nodePorts {
		fmt.Fprintf(&targets, `- {name: echo-%[1]d, port: 7070}
- {name: dns-%[1]d, port: 5353, protocol: UDP}
`, i)
	}
	return fmt.Sprintf(`apiVersion: v1
kind: Service
metadata: {name: outside}
spec:
  type: NodePort
  ports:
%s---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: outside, labels: {kubernetes.io/service-name: outside}}
addressType: IPv4
endpoints:
- addresses: ["%s"]
ports:
%s`, &ports, endpoint, &targets)
}

// masqueradeAtRandom has the rules of CNI plugins that use --random-fully.
const masqueradeAtRandom = `table ip owner {
	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		ip saddr 10.244.0.0/16 ip daddr != 10.244.0.0/16 masquerade fully-random
	}
}
`

// TestMasqueradeAtRandom: pods' connections to a host outside leave from any port of the node, even
// from NodePorts and from ports that flows of NodePort clients have towards the same host. All
// connections work, and no datagram loops.
//
// Contract: 42, 43.
func TestMasqueradeAtRandom(t *testing.T) {
	connections, least := uint64(4_000), time.Duration(0)
	if *full {
		// Faster, there may be more flows to the one backend than source ports towards it: TestSNATPortsExhausted.
		connections, least = 100_000, 2*time.Minute
	}
	s := newSetup(t, true)
	_, err := s.Laptop.Serve(podPorts)
	check(t, err)
	check(t, s.manifests.Write("outside.yaml", outsideService(s.Laptop.IP4)))
	pod, err := s.node.AddPod("asks", topo.PodOptions{})
	check(t, err)
	cmd := s.node.Command("nft", "-f", "-")
	cmd.Stdin = strings.NewReader(masqueradeAtRandom)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	s.start(t, 2*nodePorts)

	masqueraded, laptop := client(t, pod.Host), client(t, s.Laptop)
	var made, asked atomic.Uint64 // masqueraded TCP connections, and requests to NodePorts
	echo := func(c *topo.Client, to netip.AddrPort) topo.Reply {
		stream, reply := c.OpenTCP(topo.Request{To: to, Reset: true})
		if !reply.OK() {
			return reply
		}
		defer stream.Close()
		return stream.Exchange(100)
	}
	nodePort := func() netip.AddrPort { return s.outsidePort(asked.Add(1)) }
	const workers = 4
	pause := max(*spread, least) * workers / time.Duration(connections)
	loads := map[string]*topo.Load{
		"masqueraded, TCP": topo.StartLoad(workers, pause, func(int) topo.Reply {
			defer made.Add(1)
			return echo(masqueraded, netip.AddrPortFrom(s.Laptop.IP4, podPorts.Echo[0]))
		}),
		"masqueraded, UDP": topo.StartLoad(2, pause, func(int) topo.Reply {
			return masqueraded.UDPConnected(topo.Request{To: netip.AddrPortFrom(s.Laptop.IP4, podPorts.UDP[0])})
		}),
		"to NodePorts, TCP": topo.StartLoad(2, pause, func(int) topo.Reply { return echo(laptop, nodePort()) }),
		"to NodePorts, UDP": topo.StartLoad(2, pause, func(int) topo.Reply {
			return laptop.UDPConnected(topo.Request{To: nodePort()})
		}),
	}
	for made.Load() < connections && !t.Failed() {
		time.Sleep(100 * time.Millisecond)
	}
	for name, load := range loads {
		report := load.Stop()
		t.Logf("%s: %s", name, report)
		if report.Failed > 0 {
			t.Errorf("%s: %s", name, report)
		}
	}
	s.atRest(t)
}

// outsidePort returns one of outsideService's NodePorts.
func (s *setup) outsidePort(i uint64) netip.AddrPort {
	return netip.AddrPortFrom(s.node.IP4, uint16(firstNodePort+i%nodePorts))
}

// TestAnswersUnderWay: where unconfirmed flows have all source ports towards a backend, a new one
// takes none from a flow whose answer is on its way. Each port is used several times a second. Two
// or three in 10,000 exchanges lost their answer when a new flow took any port at its third try.
func TestAnswersUnderWay(t *testing.T) {
	if !*full {
		t.Skip("needs -full: what is lost with few exchanges, the tests of the programs alone see each time")
	}
	s := newSetup(t, true, "--snat-ports=10000-11999")
	_, err := s.Laptop.Serve(podPorts)
	check(t, err)
	check(t, s.manifests.Write("outside.yaml", outsideService(s.Laptop.IP4)))
	s.start(t, 2*nodePorts)
	laptop := client(t, s.Laptop)
	var asked atomic.Uint64
	load := topo.StartLoad(8, 0, func(int) topo.Reply {
		return laptop.UDPConnected(topo.Request{To: s.outsidePort(asked.Add(1))})
	})
	time.Sleep(20 * time.Second)
	report := load.Stop()
	t.Log(report)
	if report.Failed > 0 {
		t.Errorf("an answer was lost: %s", report)
	}
}

// atRest waits until no packets are under way any more.
func (s *setup) atRest(t *testing.T) {
	t.Helper()
	time.Sleep(time.Second)
	before := s.counters(t)
	time.Sleep(time.Second)
	for k, n := range s.counters(t).Since(before) {
		if n > 100 {
			t.Errorf("%d packets in a second counted as %s, without traffic", n, k)
		}
	}
}

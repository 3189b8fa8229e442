// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"net/netip"
	"testing"
	"time"
)

// pair is a client in one pod and a server in another of the same node.
func pair(t *testing.T) (c *Client, client, server *Pod) {
	t.Helper()
	n := newTestNetwork(t, Options{Nodes: 1, TxOffload: true})
	client = addTestPod(t, n.Nodes[0], "client", PodOptions{})
	server = addTestPod(t, n.Nodes[0], "server", PodOptions{})
	serve(t, server.Host)
	return newTestClient(t, client.Host), client, server
}

func TestKeepAlive(t *testing.T) {
	c, _, server := pair(t)
	r := to(server.IP4, httpPort)
	r.KeepAlive = true
	first, second := c.Get(r), c.Get(r)
	if first.Reused || !second.Reused || first.Local != second.Local {
		t.Errorf("first %s, second %s", first, second)
	}
	if third := c.Get(to(server.IP4, httpPort)); third.Reused || third.Local == first.Local {
		t.Errorf("without keep-alive: %s", third)
	}
}

func TestSourcePort(t *testing.T) {
	c, client, server := pair(t)
	const port = 40000
	want := netip.AddrPortFrom(client.IP4, port)
	for range 3 {
		tcp := Request{To: netip.AddrPortFrom(server.IP4, echoPort), SourcePort: port, Reset: true}
		if r := c.Echo(tcp); !r.OK() || r.Remote != want || r.Local != want {
			t.Errorf("TCP: %s", r)
		}
	}
	udp := Request{To: netip.AddrPortFrom(server.IP4, udpPort), SourcePort: port}
	if r := c.UDPUnconnected(udp); !r.OK() || r.Remote != want || r.Local.Port() != port {
		t.Errorf("UDP: %s", r)
	}
}

func TestMapped(t *testing.T) {
	c, client, server := pair(t)
	mapped := Request{To: netip.AddrPortFrom(server.IP4, udpPort), Mapped: true, Size: 10}
	for name, r := range map[string]Reply{
		"GET":         c.Get(mapped),
		"connected":   c.UDPConnected(mapped),
		"unconnected": c.UDPUnconnected(mapped),
	} {
		if !r.OK() || r.Remote.Addr() != client.IP4 {
			t.Errorf("%s: %s", name, r)
		}
	}
}

func TestFailures(t *testing.T) {
	c, _, server := pair(t)
	must(t, server.AddRoute(netip.MustParsePrefix("203.0.113.0/24"), server.IP4))
	for _, addr := range []netip.Addr{server.IP4, server.IP6} {
		if r := c.Connect(to(addr, 9)); r.Errno != "ECONNREFUSED" || r.Elapsed > time.Second {
			t.Errorf("closed TCP port: %s, errno %q", r, r.Errno)
		}
		if r := c.UDPConnected(to(addr, 9)); r.Errno != "ECONNREFUSED" || r.Elapsed > time.Second {
			t.Errorf("closed UDP port: %s, errno %q", r, r.Errno)
		}
	}
	silent := Request{To: netip.AddrPortFrom(server.IP4, 9), Timeout: 100 * time.Millisecond}
	if r := c.UDPUnconnected(silent); !r.Timeout || r.Elapsed < silent.Timeout {
		t.Errorf("no answer: %s", r)
	}
}

func TestStream(t *testing.T) {
	c, _, server := pair(t)
	request := to(server.IP4, echoPort)
	request.Timeout = time.Second
	tcp, r := c.OpenTCP(request)
	must(t, r.Error())
	udp, r := c.OpenUDP(to(server.IP4, udpPort))
	must(t, r.Error())
	for _, size := range []int{1, 1 << 20, 0, 100} {
		if r := tcp.Exchange(size); !r.OK() || r.Bytes != size || r.Pod != "server" {
			t.Errorf("TCP, %d bytes: %s", size, r)
		}
	}
	first, second := udp.Exchange(10), udp.Exchange(10)
	if !second.OK() || first.Remote != second.Remote {
		t.Errorf("UDP: first %s, second %s", first, second)
	}
	must(t, server.Node.RemovePod(server))
	if r := tcp.Exchange(1); r.OK() || r.Timeout {
		t.Errorf("exchange with a pod whose processes died before its network: %s", r)
	}
	tcp.Close()
	if r := tcp.Exchange(1); r.OK() {
		t.Error("exchange on a closed stream")
	}
}

func TestDeadClient(t *testing.T) {
	c, client, server := pair(t)
	must(t, client.Node.RemovePod(client))
	if r := c.Get(to(server.IP4, httpPort)); r.OK() {
		t.Errorf("a dead client: %s", r)
	}
	if err := c.Close(); err == nil {
		t.Error("closing a killed client should fail")
	}
}

func TestLoad(t *testing.T) {
	c, _, server := pair(t)
	reached := make(chan struct{}, 1000)
	load := StartLoad(2, time.Millisecond, func(int) Reply {
		r := c.Get(to(server.IP4, httpPort))
		reached <- struct{}{}
		return r
	})
	for range 20 {
		<-reached
	}
	report := load.Stop()
	if report.OK < 20 || report.Failed != 0 || report.Pods["server"] != report.OK || report.LongestGap <= 0 {
		t.Error(report)
	}
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"net/netip"
	"testing"
)

// Every kind of traffic between pods of different nodes, on every kind of
// network.
func TestPodToPod(t *testing.T) {
	for _, opts := range []Options{
		{Nodes: 2, PodNetwork: Routed, TxOffload: true},
		{Nodes: 2, PodNetwork: Routed, XDPPeers: true},
		{Nodes: 2, PodNetwork: VXLAN, TxOffload: true},
		{Nodes: 2, PodNetwork: VXLAN},
	} {
		kind := map[PodNetwork]string{Routed: "routed", VXLAN: "vxlan"}[opts.PodNetwork]
		t.Run(fmt.Sprintf("%s,offload=%t,xdp=%t", kind, opts.TxOffload, opts.XDPPeers), func(t *testing.T) {
			n := newTestNetwork(t, opts)
			a := addTestPod(t, n.Nodes[0], "a", PodOptions{})
			b := addTestPod(t, n.Nodes[1], "b-with-a-long-name", PodOptions{})
			serve(t, b.Host)
			c := newTestClient(t, a.Host)
			exerciseAll(t, c, a.IP4, b.IP4)
			exerciseAll(t, c, a.IP6, b.IP6)
		})
	}
}

// exerciseAll makes all kinds of requests and expects no translation.
func exerciseAll(t *testing.T, c *Client, from, server netip.Addr) {
	t.Helper()
	const bulk = 3<<20 + 17
	udp := Request{To: netip.AddrPortFrom(server, udpPort), Size: 1000, Count: 20}
	fragmented := Request{To: udp.To, Size: 20000, Count: 3}
	post := Request{To: netip.AddrPortFrom(server, httpPort), Size: bulk}
	stream := Request{To: netip.AddrPortFrom(server, echoPort), Size: 5000, Count: 3}
	for name, reply := range map[string]Reply{
		"GET":            c.Get(to(server, httpPort)),
		"POST":           c.Post(post),
		"UDP":            c.UDPConnected(udp),
		"UDP sendto":     c.UDPUnconnected(udp),
		"UDP fragmented": c.UDPUnconnected(fragmented),
		"echo":           c.Echo(stream),
	} {
		if !reply.OK() {
			t.Errorf("%s to %s: %s", name, server, reply)
			continue
		}
		if reply.Remote.Addr() != from || reply.Server.Addr() != server {
			t.Errorf("%s to %s: addresses differ: %s", name, server, reply)
		}
		if reply.Peer.Addr().IsValid() && reply.Peer.Addr() != server {
			t.Errorf("%s to %s: getpeername says %s", name, server, reply.Peer)
		}
		if reply.Source.IsValid() && reply.Source.Addr() != server {
			t.Errorf("%s to %s: reply from %s", name, server, reply.Source)
		}
	}
}

func TestLaptopToPodThroughNodes(t *testing.T) {
	n := newTestNetwork(t, Defaults())
	pod := addTestPod(t, n.Nodes[1], "web", PodOptions{})
	serve(t, pod.Host)
	c := newTestClient(t, n.Laptop)
	if r := c.Connect(to(pod.IP4, httpPort)); r.Errno != "ENETUNREACH" {
		t.Errorf("without a route: %s (%s), want ENETUNREACH", r, r.Errno)
	}
	for i, node := range n.Nodes {
		must(t, n.Laptop.AddRoute(n.Nodes[1].PodCIDR4, node.IP4))
		must(t, n.Laptop.AddRoute(n.Nodes[1].PodCIDR6, node.IP6))
		t.Logf("through node %d", i+1)
		exerciseAll(t, c, n.Laptop.IP4, pod.IP4)
		exerciseAll(t, c, n.Laptop.IP6, pod.IP6)
	}
}

// Pods of one node, a node and its own or another's pod, and a node itself.
func TestNodes(t *testing.T) {
	n := newTestNetwork(t, Options{Nodes: 3, TxOffload: true})
	pod := addTestPod(t, n.Nodes[0], "a", PodOptions{})
	neighbour := addTestPod(t, n.Nodes[0], "b", PodOptions{})
	serve(t, pod.Host)
	serve(t, n.Nodes[0].Host)
	for _, from := range []*Host{neighbour.Host, n.Nodes[0].Host, n.Nodes[2].Host} {
		c := newTestClient(t, from)
		for _, server := range []netip.Addr{pod.IP4, pod.IP6, n.Nodes[0].IP4, n.Nodes[0].IP6} {
			if r := c.Get(to(server, httpPort)); !r.OK() {
				t.Errorf("%s to %s: %s", from.Name, server, r)
			}
		}
	}
	c := newTestClient(t, n.Nodes[0].Host)
	for _, loopback := range []string{"127.0.0.1", "::1"} {
		r := c.UDPUnconnected(to(netip.MustParseAddr(loopback), udpPort))
		if r.Pod != "node-1" || r.Source.Addr().String() != loopback {
			t.Errorf("%s: %s", loopback, r)
		}
	}
}

// A reply comes from the address that the request was sent to, not from the one
// that the kernel prefers.
func TestUDPServerKeepsAddress(t *testing.T) {
	n := newTestNetwork(t, Defaults())
	service4, service6 := netip.MustParseAddr("203.0.113.7"), netip.MustParseAddr("2001:db8::7")
	node := n.Nodes[0]
	must(t, node.AddAddr("lo", Single(service4)))
	must(t, node.AddAddr("lo", Single(service6)))
	must(t, n.Laptop.AddRoute(Single(service4), node.IP4))
	must(t, n.Laptop.AddRoute(Single(service6), node.IP6))
	serve(t, node.Host)
	c := newTestClient(t, n.Laptop)
	exerciseAll(t, c, n.Laptop.IP4, service4)
	exerciseAll(t, c, n.Laptop.IP6, service6)
	must(t, node.DelAddr("lo", Single(service4)))
	must(t, n.Laptop.DelRoute(Single(service4)))
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// clusterIP is a conversation with a cluster IP.
func clusterIP(n *node, v variant, p path, client, backend netip.Addr) *conversation {
	n.t.Helper()
	c := &conversation{
		node: n, path: p, variant: v,
		client: at(client, clientPort), backend: at(backend, backendPort), frontend: at(v.vip, 80),
	}
	backends := []netip.AddrPort{c.backend}
	c.service = n.publish(service{frontend: c.frontend, proto: v.proto, flags: bpf.ServiceClusterIP, external: backends, internal: backends})
	return c
}

// fromPod: a pod is the client, and the backend is elsewhere. The packet is routed, and its source
// translated where it leaves: if the program sent it, the CNI's rules would not see it.
var fromPod = path{
	name: "masqueraded-pod", out: back, snat: true, fromPod: true, halves: 3,
	request: func(c *conversation, p packet) packet {
		r := c.podIngress(pod0, p)
		c.learn(r)
		half := at(c.client.Addr(), c.source.Port())
		routed := r.became(bpf.VerdictStack, tcNext, from(half), to(c.backend)).with(hopDown)
		r = c.egress(back, routed)
		c.events = append(c.events, r.events...)
		return r.became(bpf.VerdictSource, tcNext, from(c.source))
	},
	reply: (*conversation).replyTC,
}

// TestMasqueradeAll, of contract 9: no backend sees the address of a cluster IP's client.
func TestMasqueradeAll(t *testing.T) {
	all := variable("masquerade_all", true)
	forEach(t, func(t *testing.T, v variant) {
		t.Run("from a pod", func(t *testing.T) {
			c := clusterIP(newNode(t, all), v, fromPod, v.pod, v.far)
			c.establish()
			c.request(acked, payload(5))
			c.reply(payload(50))
		})
		t.Run("to a pod", func(t *testing.T) {
			local := split
			local.out, local.reply = pod0, (*conversation).replyFromPod
			c := clusterIP(newNode(t, all), v, local, v.client, v.pod)
			c.source = netip.AddrPort{}
			c.path.request = func(c *conversation, p packet) packet {
				c.leftToTC(front, p)
				r := c.ingress(front, p)
				c.learnFrom(r, c.plan.back) // a pod's device has no address
				half := at(c.client.Addr(), c.source.Port())
				routed := r.became(bpf.VerdictStack, tcNext, from(half), to(c.backend)).with(hopDown)
				r = c.egress(pod0, routed)
				c.events = append(c.events, r.events...)
				return r.became(bpf.VerdictSource, tcNext, from(c.source))
			}
			c.establish()
			c.request(acked, payload(5))
			c.reply(payload(50))
		})
		t.Run("not to another frontend", func(t *testing.T) {
			n := newNode(t, all)
			backend := at(v.pod, backendPort)
			n.serve(v, at(v.any(), nodePort), backend)
			n.ingress(front, v.packet(at(v.client, clientPort), at(v.front, nodePort))).
				became(bpf.VerdictStack, tcNext, to(backend))
		})
	})
}

func (c *conversation) replyFromPod(p packet) packet {
	c.t.Helper()
	r := c.podIngress(pod0, p)
	c.events = append(c.events, r.events...)
	return r.became(bpf.VerdictExpress, tcRedirect, from(c.frontend), to(c.client), c.returned())
}

// TestMasqueradeAllToNode: no hook sees the node's packets to itself, so a backend that is the node
// gets the packet with its source, even on addresses where NodePorts don't answer.
func TestMasqueradeAllToNode(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t, variable("masquerade_all", true))
		c := clusterIP(n, v, stack, v.pod, v.tunnel)
		n.put("backends", n.backends, bpf.Backend{
			Addr: words(v.tunnel), Port: netPort(backendPort), Service: c.service, Proto: uint8(v.proto),
			Flags: backendFlags(v.tunnel) | bpf.BackendLocal,
		})
		n.put(family("node_addrs", v.tunnel), v.tunnel.AsSlice(), bpf.NodeAddrLocal)
		n.podIngress(pod0, v.packet(c.client, c.frontend)).became(bpf.VerdictStack, tcNext, to(c.backend))
	})
}

// TestMasqueradeAllToLocal: packets to a backend on this node pass the CNI's rules, even if its
// device would allow the express path.
func TestMasqueradeAllToLocal(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t, variable("masquerade_all", true))
		c := clusterIP(n, v, split, v.client, v.far)
		n.put("backends", n.backends-1, bpf.Backend{ // the one of the external scope
			Addr: words(v.far), Port: netPort(backendPort), Service: c.service, Proto: uint8(v.proto),
			Flags: backendFlags(v.far) | bpf.BackendLocal,
		})
		c.path.out = back
		c.establish()
	})
}

// learnFrom is learn, if the backend sees another address than the device's.
func (c *conversation) learnFrom(r result, source netip.Addr) {
	c.t.Helper()
	c.events = append(c.events, r.events...)
	if c.source.IsValid() {
		return
	}
	src, _ := addresses(r.out)
	c.source = at(source, src.Port())
}

// TestLocalSources, of contract 9: a client in the cluster that comes by another node keeps its
// address, and a client outside does not.
func TestLocalSources(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		kept := path{
			name: "kept", out: back, atEgress: true, halves: 2,
			request: (*conversation).requestStack, reply: (*conversation).replyStack,
		}
		n := newNode(t)
		n.admit(localSources, host(v.client))
		c := clusterIP(n, v, kept, v.client, v.far)
		c.establish()
		c.request(acked, payload(5))
		c.reply(payload(50))

		stranger := clusterIP(n, v, otherDevice, v.client2, v.far)
		stranger.establish()
		// Other frontends don't use it.
		c = converse(n, v, otherDevice)
		c.establish()
	})
}

// TestLocalSourcesOfLocalPolicy, of contract 14: where clients outside are led to local endpoints
// only, a client in the cluster is led to all. Its address can't be kept on the way to another
// node.
func TestLocalSourcesOfLocalPolicy(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		n.admit(localSources, around(v.client, 0))
		c := &conversation{
			node: n, path: otherDevice, variant: v,
			client: at(v.client, clientPort), frontend: at(v.front, nodePort), backend: at(v.far, backendPort),
		}
		c.service = n.publish(service{
			frontend: at(v.any(), nodePort), proto: v.proto, internal: []netip.AddrPort{c.backend},
			flags: bpf.ServiceNodePort | bpf.ServiceExternalLocal | bpf.ServiceExternalDrop,
		})
		c.establish()
		stranger := v.packet(at(v.client2, clientPort), c.frontend)
		n.xdp(front, stranger).dropped(bpf.VerdictDropNoLocalEndpoint)
		n.ingress(front, stranger).dropped(bpf.VerdictDropNoLocalEndpoint)
	})
}

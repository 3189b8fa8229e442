// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestStackRecords: XDP chooses the backend and records it, and tc follows the
// record.
func TestStackRecords(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		frontend, client := at(v.vip, 80), at(v.client, clientPort)
		n.serve(v, frontend, at(v.pod, backendPort), at(v.pod2, backendPort))
		syn := v.packet(client, frontend)
		r := n.xdp(front, syn)
		r.passed(bpf.VerdictLeftToTC)
		r.had(bpf.VerdictFlowOpened)

		chosen := n.get(tuple{src: client, dst: frontend, proto: v.proto})
		for range 4 {
			r = n.ingress(front, syn)
			r.became(bpf.VerdictStack, tcNext, to(chosen.dst))
			r.had()
		}
	})
}

// TestWithoutXDP: on a device without XDP tc does all the work.
func TestWithoutXDP(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		frontend, client := at(v.vip, 80), at(v.client, clientPort)
		backend := at(v.pod, backendPort)
		n.serve(v, frontend, backend)
		r := n.ingress(front, v.packet(client, frontend))
		r.became(bpf.VerdictStack, tcNext, to(backend))
		r.had(bpf.VerdictFlowOpened)
		n.egress(front, v.packet(backend, client, synAck)).
			became(bpf.VerdictSource, tcNext, from(frontend))
	})
}

// TestSameClientPort: one client port, two services, one backend. The backend
// must be able to distinguish them, and each reply must come from the right
// service.
func TestSameClientPort(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		first := converse(newNode(t), v, stack)
		other := *first
		other.frontend = at(v.vip, 80)
		other.serve(v, other.frontend, other.backend)

		first.request()
		other.request()
		equal(t, "source", first.client, first.source)
		if other.source.Addr() != first.client.Addr() || other.source.Port() < snatMin {
			t.Errorf("source %v, want the client's address and a translated port", other.source)
		}
		for _, c := range []*conversation{&other, first} {
			c.reply()
			c.request(acked)
			c.had(bpf.VerdictFlowConfirmed)
			c.standsConfirmed()
			c.reply(payload(3))
		}
	})
}

// TestEgressNotOurs: a packet that a backend sends without a request is not
// translated.
func TestEgressNotOurs(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, stack)
		c.establish()
		n := c.node
		n.egress(front, v.packet(c.backend, at(v.client2, clientPort))).passed(bpf.VerdictNotOurs)
		n.egress(front, v.packet(at(v.pod2, backendPort), c.client)).passed(bpf.VerdictNotOurs)
		n.egress(front, v.packet(at(v.pod, backendPort+1), c.client)).passed(bpf.VerdictNotOurs)
		// Connections to a service from the node itself are left to the socket
		// hooks.
		n.egress(front, v.packet(c.client, c.frontend)).passed(bpf.VerdictNotOurs)
		// The reply's tuple is recorded at egress only.
		n.ingress(front, v.packet(c.backend, c.client)).passed(bpf.VerdictNotOurs)
	})
}

// TestScopes: pods are sent to the internal set, clients outside to the
// external.
func TestScopes(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		frontend := at(v.vip, 80)
		inside, outside := at(v.far, backendPort), at(v.pod, backendPort)
		n.publish(service{
			frontend: frontend, proto: v.proto,
			external: []netip.AddrPort{outside}, internal: []netip.AddrPort{inside},
		})
		n.ingress(front, v.packet(at(v.client, clientPort), frontend)).
			became(bpf.VerdictStack, tcNext, to(outside))
		// A pod's address needs no SNAT, wherever the backend is.
		client := at(v.pod2, clientPort)
		n.podIngress(pod0, v.packet(client, frontend)).became(bpf.VerdictStack, tcNext, to(inside))
		n.egress(pod0, v.packet(inside, client, synAck)).
			became(bpf.VerdictSource, tcNext, from(frontend))
	})
}

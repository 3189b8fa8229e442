// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"net"
	"net/netip"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
)

// TestNotOurs: packets for no service pass unchanged, and leave no record.
func TestNotOurs(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n, ours := serving(t, v)
		for _, p := range []packet{
			ours.with(to(at(v.vip2, 80))),
			ours.with(to(at(v.vip, 81))),
			ours.with(to(at(v.front, 80))),
			ours.with(to(at(v.near, backendPort))),
			ours.with(to(at(v.client, snatMin))), // as an answer to SNAT
			ours.with(from(at(v.vip, 80)), to(at(v.client, clientPort))),
			ours.with(to(at(v.vip2, 80)), ttl(1), tos(4), tcpOptions, flags("R")),
		} {
			for _, r := range n.everywhere(p.bytes()) {
				r.passed(bpf.VerdictNotOurs)
				r.had()
			}
		}
		equal(t, "records", 0, n.size(v))
	})
}

// TestStrangersAnswer: a packet to a SNAT port from a host that got no request.
func TestStrangersAnswer(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, sameDevice)
		c.establish()
		for _, stranger := range []packet{
			c.packet(at(v.far2, backendPort), c.source, synAck),
			c.packet(at(v.near, backendPort+1), c.source, synAck),
			c.packet(c.backend, at(c.source.Addr(), c.source.Port()^1), synAck),
			c.packet(c.backend, at(v.back, c.source.Port()), synAck),
		} {
			c.xdp(front, stranger).passed(bpf.VerdictNotOurs)
			c.ingress(front, stranger).passed(bpf.VerdictNotOurs)
		}
	})
}

// TestFramesToMany, of contract 62: a frame to many receivers is left to the stack, which drops a
// packet in it for one host.
func TestFramesToMany(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		c := converse(n, v, otherDevice)
		for _, dst := range []net.HardwareAddr{{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {1, 0, 0x5e, 0, 0, 1}} {
			p := c.packet(c.client, c.frontend)
			frame := p.with(macs(p.ethSrc, dst)).bytes()
			n.xdpFrame(front, frame).passed(bpf.VerdictNotOurs)
			for _, hook := range n.hooks() {
				hook(frame).passed(bpf.VerdictNotOurs)
			}
		}
		equal(t, "records", 0, n.size(v))
	})
}

// TestOwnSources, of contract 62: a packet from outside can't come from an address of this node. It
// is left to the stack.
func TestOwnSources(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		c := converse(n, v, otherDevice)
		for _, source := range []netip.Addr{v.front, v.tunnel} {
			p := c.packet(at(source, clientPort), c.frontend)
			n.xdp(front, p).passed(bpf.VerdictNotOurs)
			n.ingress(front, p).passed(bpf.VerdictNotOurs)
		}
		equal(t, "records", 0, n.size(v))
	})
}

// TestPodSources, of contract 62: nor can it come from one of the node's pods. Where a source range or
// the cluster's own policy depends on this, the FIB alone decides.
func TestPodSources(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		backend := at(v.pod2, backendPort)
		id := n.serve(v, at(v.vip, 80), backend)
		n.also(at(v.vip, 80), v.proto, bpf.ServiceLoadBalancer|bpf.ServiceSourceRanges)
		n.also(at(v.vip2, 80), v.proto, bpf.ServiceClusterIP)
		n.admit(id, around(v.pod, 4))
		n.admit(localSources, around(v.pod, 4))
		for _, frontend := range []netip.Addr{v.vip, v.vip2} {
			p := v.packet(at(v.pod, clientPort), at(frontend, 80))
			n.xdp(front, p).passed(bpf.VerdictNotOurs)
			equal(t, "records", 0, n.size(v))
			n.podIngress(pod0, p).became(bpf.VerdictStack, tcNext, to(backend))
			n.emptyFlows()
		}
	})
}

// TestPodRanges, of contract 62: elsewhere the FIB is asked about sources in the ranges of pods, and decides.
func TestPodRanges(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, c := range []struct {
			name     string
			ranges   netip.Prefix
			client   netip.Addr
			notTaken bool
		}{
			{"pod in a range", around(v.pod, 4), v.pod, true},
			{"pod in a range of all", netip.PrefixFrom(v.any(), 0), v.pod, true},
			{"pod in none, whose route the agent does not know yet", around(v.far, 4), v.pod, false},
			{"other host in a range", netip.PrefixFrom(v.any(), 0), v.client, false},
		} {
			t.Run(c.name, func(t *testing.T) {
				n := newNode(t)
				n.putRange("pod_ranges", c.ranges, bpf.ClusterRangeUsed)
				n.serve(v, at(v.vip, 80), at(v.far, backendPort))
				n.also(at(v.vip, 80), v.proto, bpf.ServiceLoadBalancer)
				r := n.xdp(front, v.packet(at(c.client, clientPort), at(v.vip, 80)))
				if taken := r.verdict != bpf.VerdictNotOurs; taken == c.notTaken {
					t.Errorf("%s", bpf.VerdictName(r.verdict))
				}
				if records := n.size(v); (records == 0) != c.notTaken {
					t.Errorf("%d records", records)
				}
			})
		}
	})
}

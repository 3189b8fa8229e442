// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"net/netip"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestSpoofedPodSources: packets from outside whose source is the address of a pod of this node open no flow to a
// service, at XDP and at tc. Those of other hosts do.
//
// Contract: 62.
func TestSpoofedPodSources(t *testing.T) {
	for _, xdp := range []bool{true, false} {
		s := newSetup(t, xdp)
		victim, err := s.node.AddPod("victim", topo.PodOptions{})
		check(t, err)
		s.addPod(t, s.Nodes[1], "serves", remote.app)
		s.addService(t, remote)
		check(t, s.node.SetGRO("eth0", true)) // without XDP, injected frames are accepted only with GRO
		s.start(t, portsOfService)
		for _, v6 := range bothFamilies {
			pod, other := victim.IP4, s.Laptop.IP4
			if v6 {
				pod, other = victim.IP6, s.Laptop.IP6
			}
			to := s.nodePort(remote, dnsDigit, v6)
			for _, c := range []struct {
				name    string
				source  netip.Addr
				flowing uint64
			}{{"a pod", pod, 0}, {"another host", other, 1}} {
				before := s.counters(t)
				s.inject(t, s.datagram(t, netip.AddrPortFrom(c.source, 4000), to))
				counted := s.counters(t).Since(before)
				if n := total(counted, bpf.VerdictFlowOpened); n != c.flowing {
					t.Errorf("%s, from the address of %s: %d flows were opened, want %d: %v", familyName(v6), c.name, n, c.flowing, counted)
				}
			}
		}
	}
}

// datagram makes the template of a datagram that the node gets from the laptop, with any source.
func (s *setup) datagram(t *testing.T, src, dst netip.AddrPort) topo.Template {
	t.Helper()
	udp := &layers.UDP{SrcPort: layers.UDPPort(src.Port()), DstPort: layers.UDPPort(dst.Port())}
	payload := gopacket.Payload("who is this")
	if src.Addr().Is4() {
		ip := &layers.IPv4{Version: 4, TTL: 64, Protocol: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
		check(t, udp.SetNetworkLayerForChecksum(ip))
		return s.frame(t, layers.EthernetTypeIPv4, ip, udp, payload)
	}
	ip := &layers.IPv6{Version: 6, HopLimit: 64, NextHeader: layers.IPProtocolUDP, SrcIP: src.Addr().AsSlice(), DstIP: dst.Addr().AsSlice()}
	check(t, udp.SetNetworkLayerForChecksum(ip))
	return s.frame(t, layers.EthernetTypeIPv6, ip, udp, payload)
}

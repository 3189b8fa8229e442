// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"math"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/model"
)

// asker is the host that asks for MACs.
var asker = net.HardwareAddr{0x02, 0xcc, 0, 0, 0, 0x77}

var everyone = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// announcing is a node that answers for plan4.vip and plan6.vip on the device front.
func announcing(t *testing.T) *node {
	n := newNode(t)
	n.explained = true
	n.announce(front, plan4.vip)
	n.announce(front, plan6.vip)
	n.answerUntil(math.MaxUint64)
	return n
}

func (n *node) announce(d *device, a netip.Addr) {
	n.t.Helper()
	must(maps.NewAnnounced(mapsOf(n.maps)).Set(maps.Place{Addr: a, Ifindex: d.index}, d.mac()))
}

func (n *node) answerUntil(nanoseconds uint64) { n.put("announce_until", uint32(0), nanoseconds) }

// announcements are the counters of an address on front.
func (n *node) announcements(a netip.Addr) maps.Announcement {
	n.t.Helper()
	all, err := maps.NewAnnounced(mapsOf(n.maps)).All()
	must(err)
	return all[maps.Place{Addr: a, Ifindex: front.index}]
}

// arpRequest is an ARP request for plan4.vip.
type arpRequest struct {
	to     net.HardwareAddr
	sender netip.Addr
	layers.ARP
}

func newRequest() *arpRequest {
	return &arpRequest{everyone, plan4.near, layers.ARP{
		AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
		Operation: layers.ARPRequest, SourceHwAddress: asker, SourceProtAddress: plan4.near.AsSlice(),
		DstHwAddress: make([]byte, 6), DstProtAddress: plan4.vip.AsSlice(),
	}}
}

func (r *arpRequest) frame() []byte {
	return serialize(&layers.Ethernet{SrcMAC: asker, DstMAC: r.to, EthernetType: layers.EthernetTypeARP}, &r.ARP)
}

// solicitation is a neighbour solicitation for plan6.vip.
type solicitation struct {
	eth layers.Ethernet
	ip  layers.IPv6
	// The message, and its code and checksum; 0: the right one.
	layers.ICMPv6NeighborSolicitation
	kind, code uint8
	checksum   uint16
	trailer    int // bytes behind the packet
}

func newSolicitation() *solicitation {
	s := &solicitation{
		eth:  layers.Ethernet{SrcMAC: asker, DstMAC: net.HardwareAddr{0x33, 0x33, 0xff, 0, 0, 0x10}, EthernetType: layers.EthernetTypeIPv6},
		ip:   layers.IPv6{Version: 6, TrafficClass: 0xe0, FlowLabel: 0x12345, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: plan6.near.AsSlice(), DstIP: net.ParseIP("ff02::1:ff00:10")},
		kind: layers.ICMPv6TypeNeighborSolicitation,
	}
	s.TargetAddress = plan6.vip.AsSlice()
	s.Options = layers.ICMPv6Options{{Type: layers.ICMPv6OptSourceAddress, Data: asker}}
	return s
}

func (s *solicitation) frame() []byte {
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(s.kind, s.code)}
	must(icmp.SetNetworkLayerForChecksum(&s.ip))
	b := serialize(&s.eth, &s.ip, icmp, &s.ICMPv6NeighborSolicitation)
	if s.checksum != 0 {
		binary.BigEndian.PutUint16(b[ethHeader+40+2:], s.checksum)
	}
	return append(b, bytes.Repeat([]byte{0xaa}, s.trailer)...)
}

// answerers are the hooks that answer, with the action by which the answer leaves.
var answerers = map[string]asking{
	"xdp": func(n *node, d *device, frame []byte) (result, uint32) {
		return n.xdpFrame(d, frame), xdpTX
	},
	"tc": func(n *node, d *device, frame []byte) (result, uint32) {
		return n.tcFrame(bpf.HookTCIngress, "waggle_ingress", d, frame, 0), tcRedirect
	},
}

type asking func(n *node, d *device, frame []byte) (r result, sent uint32)

func forEachAnswerer(t *testing.T, test func(t *testing.T, ask asking)) {
	for name, ask := range answerers {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, ask)
		})
	}
}

// TestARPAnswered: the reply is as RFC 826 has it, and to a probe as RFC 5227, 2.1.1.
func TestARPAnswered(t *testing.T) {
	forEachAnswerer(t, func(t *testing.T, ask asking) {
		n := announcing(t)
		for i, change := range []func(*arpRequest){
			func(*arpRequest) {},
			func(r *arpRequest) { r.to = front.mac() },                                           // asked again by one that knows the MAC
			func(r *arpRequest) { r.sender = netip.IPv4Unspecified() },                           // a probe
			func(r *arpRequest) { r.DstHwAddress = everyone },                                    // of no meaning in a request
			func(r *arpRequest) { r.SourceHwAddress = net.HardwareAddr{0x02, 0xcc, 0, 0, 0, 1} }, // behind another device
			func(r *arpRequest) { r.to = net.HardwareAddr{0x01, 0, 0x5e, 0, 0, 1} },              // multicast
		} {
			request := newRequest()
			change(request)
			request.SourceProtAddress = request.sender.AsSlice()
			r, sent := ask(n, front, request.frame())
			if !r.is(bpf.VerdictAnnounced, sent) {
				continue
			}
			want := serialize(
				&layers.Ethernet{SrcMAC: front.mac(), DstMAC: request.SourceHwAddress, EthernetType: layers.EthernetTypeARP},
				&layers.ARP{
					AddrType: layers.LinkTypeEthernet, Protocol: layers.EthernetTypeIPv4, HwAddressSize: 6, ProtAddressSize: 4,
					Operation: layers.ARPReply, SourceHwAddress: front.mac(), SourceProtAddress: plan4.vip.AsSlice(),
					DstHwAddress: request.SourceHwAddress, DstProtAddress: request.SourceProtAddress,
				})
			same(t, want, r.out)
			r.had()
			equal(t, "answered", uint64(i+1), n.announcements(plan4.vip).Answered)
		}
	})
}

// TestARPPassed: all other ARP frames go on to the stack unchanged.
func TestARPPassed(t *testing.T) {
	forEachAnswerer(t, func(t *testing.T, ask asking) {
		n := announcing(t)
		n.announce(back, plan4.vip2)
		for name, change := range map[string]func(*arpRequest){
			"another address":       func(r *arpRequest) { r.DstProtAddress = plan4.front.AsSlice() },
			"on another device":     func(r *arpRequest) { r.DstProtAddress = plan4.vip2.AsSlice() },
			"to another host's MAC": func(r *arpRequest) { r.to = back.mac() },
			"a reply":               func(r *arpRequest) { r.Operation = layers.ARPReply },
			"an announcement":       func(r *arpRequest) { r.SourceProtAddress = plan4.vip.AsSlice() },
			"from a group":          func(r *arpRequest) { r.SourceHwAddress = everyone },
			"from no MAC":           func(r *arpRequest) { r.SourceHwAddress = make([]byte, 6) },
			"of another network":    func(r *arpRequest) { r.AddrType = layers.LinkType(15) },
			"of another protocol":   func(r *arpRequest) { r.Protocol = layers.EthernetTypeIPv6 },
		} {
			request := newRequest()
			change(request)
			r, _ := ask(n, front, request.frame())
			if r.verdict != bpf.VerdictNotIP && r.verdict != bpf.VerdictNotOurs { // by one frame, by a frame to many
				t.Errorf("%s: %s", name, bpf.VerdictName(r.verdict))
			}
			r.passed(r.verdict)
		}
		r, _ := ask(n, back, newRequest().frame())
		r.passed(bpf.VerdictNotOurs)
		r, _ = ask(n, front, newRequest().frame()[:ethHeader+27])
		r.passed(bpf.VerdictNotOurs)
		equal(t, "announcement", maps.Announcement{MAC: front.mac()}, n.announcements(plan4.vip))
	})
}

// advertisementOf is the answer to a solicitation, RFC 4861, 7.2.4.
func advertisementOf(s *solicitation) []byte {
	to, toIP, flags := s.eth.SrcMAC, s.ip.SrcIP, uint8(0x60)
	for _, o := range s.Options {
		if o.Type == layers.ICMPv6OptSourceAddress {
			to = o.Data
		}
	}
	if s.ip.SrcIP.IsUnspecified() {
		to, toIP, flags = net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, net.ParseIP("ff02::1"), 0x20
	}
	ip := &layers.IPv6{Version: 6, NextHeader: layers.IPProtocolICMPv6, HopLimit: 255, SrcIP: s.TargetAddress, DstIP: toIP}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeNeighborAdvertisement, 0)}
	must(icmp.SetNetworkLayerForChecksum(ip))
	return serialize(&layers.Ethernet{SrcMAC: front.mac(), DstMAC: to, EthernetType: layers.EthernetTypeIPv6}, ip, icmp,
		&layers.ICMPv6NeighborAdvertisement{
			Flags: flags, TargetAddress: s.TargetAddress,
			Options: layers.ICMPv6Options{{Type: layers.ICMPv6OptTargetAddress, Data: front.mac()}},
		})
}

func nonce() layers.ICMPv6Option {
	return layers.ICMPv6Option{Type: 14, Data: []byte{1, 2, 3, 4, 5, 6}}
}

// TestNDPAnswered: solicitations with and without options, of neighbours and of hosts that look for duplicates.
func TestNDPAnswered(t *testing.T) {
	forEachAnswerer(t, func(t *testing.T, ask asking) {
		n := announcing(t)
		for i, change := range []func(*solicitation){
			func(*solicitation) {},
			func(s *solicitation) { s.Options = nil },
			func(s *solicitation) { s.Options[0].Data = net.HardwareAddr{0x02, 0xcc, 0, 0, 0, 1} },
			func(s *solicitation) { s.Options = append(layers.ICMPv6Options{nonce(), nonce()}, s.Options...) },
			func(s *solicitation) { s.Options = append(s.Options, nonce(), nonce(), nonce()) },
			func(s *solicitation) { s.trailer = 7 },
			func(s *solicitation) { s.trailer, s.Options = 60, nil },
			func(s *solicitation) { s.eth.DstMAC, s.ip.DstIP = front.mac(), plan6.vip.AsSlice() }, // is it still there
			func(s *solicitation) { s.eth.DstMAC, s.ip.DstIP, s.Options = front.mac(), plan6.vip.AsSlice(), nil },
			func(s *solicitation) { s.eth.DstMAC = front.mac() },                                                 // to the group, but by one frame
			func(s *solicitation) { s.ip.SrcIP = net.ParseIP("fe80::77") },                                       // link-local
			func(s *solicitation) { s.ip.SrcIP, s.Options = net.IPv6unspecified, nil },                           // duplicates
			func(s *solicitation) { s.ip.SrcIP, s.Options = net.IPv6unspecified, layers.ICMPv6Options{nonce()} }, // RFC 7527
		} {
			s := newSolicitation()
			change(s)
			r, sent := ask(n, front, s.frame())
			if !r.is(bpf.VerdictAnnounced, sent) {
				t.Errorf("solicitation %d", i)
				continue
			}
			same(t, advertisementOf(s), r.out)
			sound(t, r.out)
			r.had()
			equal(t, "answered", uint64(i+1), n.announcements(plan6.vip).Answered)
		}
	})
}

// TestNDPPassed: RFC 4861, 7.1.1, and what is not for this node.
func TestNDPPassed(t *testing.T) {
	forEachAnswerer(t, func(t *testing.T, ask asking) {
		n := announcing(t)
		n.announce(back, plan6.vip2)
		other := plan6.vip.As16()
		other[0] ^= 1 // its group is the same
		for name, change := range map[string]func(*solicitation){
			"another target": func(s *solicitation) { s.TargetAddress = other[:] },
			"on another device": func(s *solicitation) {
				s.TargetAddress, s.ip.DstIP = plan6.vip2.AsSlice(), net.ParseIP("ff02::1:ff00:11")
			},
			"hop limit 254":          func(s *solicitation) { s.ip.HopLimit = 254 },
			"code 1":                 func(s *solicitation) { s.code = 1 },
			"an advertisement":       func(s *solicitation) { s.kind = layers.ICMPv6TypeNeighborAdvertisement },
			"wrong checksum":         func(s *solicitation) { s.checksum = 0x1234 },
			"to another host's MAC":  func(s *solicitation) { s.eth.DstMAC, s.ip.DstIP = back.mac(), plan6.vip.AsSlice() },
			"to all nodes":           func(s *solicitation) { s.ip.DstIP = net.ParseIP("ff02::1") },
			"to another group":       func(s *solicitation) { s.ip.DstIP = net.ParseIP("ff02::1:ff00:11") },
			"to a group of the site": func(s *solicitation) { s.ip.DstIP = net.ParseIP("ff05::1:ff00:10") },
			"from a group":           func(s *solicitation) { s.ip.SrcIP = net.ParseIP("ff02::2") },
			"duplicates, with a MAC": func(s *solicitation) { s.ip.SrcIP = net.IPv6unspecified },
			"duplicates, to one": func(s *solicitation) {
				s.ip.SrcIP, s.ip.DstIP, s.Options = net.IPv6unspecified, plan6.vip.AsSlice(), nil
			},
			"five options":         func(s *solicitation) { s.Options = append(s.Options, nonce(), nonce(), nonce(), nonce()) },
			"a MAC of many":        func(s *solicitation) { s.Options[0].Data = everyone },
			"from a frame's group": func(s *solicitation) { s.eth.SrcMAC, s.Options = everyone, nil },
		} {
			s := newSolicitation()
			change(s)
			r, _ := ask(n, front, s.frame())
			if r.verdict != bpf.VerdictNotOurs {
				t.Errorf("%s: %s", name, bpf.VerdictName(r.verdict))
			}
			r.passed(bpf.VerdictNotOurs)
		}
		r, _ := ask(n, back, newSolicitation().frame())
		r.passed(bpf.VerdictNotOurs)
		for _, spoil := range []func(frame []byte) []byte{
			func(b []byte) []byte { return b[:len(b)-4] },                        // cut short
			func(b []byte) []byte { b[ethHeader+40+24+1] = 0; return summed(b) }, // an option of no length
			func(b []byte) []byte { b[ethHeader+40+24+1] = 2; return summed(b) }, // an option that is longer than the message
			func(b []byte) []byte { // half an option more
				b = append(b, 0, 0, 0, 0)
				binary.BigEndian.PutUint16(b[ethHeader+4:], uint16(len(b)-ethHeader-40))
				return summed(b)
			},
		} {
			r, _ := ask(n, front, spoil(newSolicitation().frame()))
			r.passed(bpf.VerdictNotOurs)
		}
		equal(t, "announcement", maps.Announcement{MAC: front.mac()}, n.announcements(plan6.vip))
	})
}

// summed makes the checksum of a solicitation right again.
func summed(b []byte) []byte {
	ip, message := b[ethHeader:ethHeader+40], b[ethHeader+40:]
	binary.BigEndian.PutUint16(message[2:], 0)
	from, _ := netip.AddrFromSlice(ip[8:24])
	to, _ := netip.AddrFromSlice(ip[24:40])
	binary.BigEndian.PutUint16(message[2:], model.Checksum(model.PseudoHeader(from, to, model.ICMPv6, len(message)), message))
	return b
}

// TestAnswersLapse: after the time that the agent wrote last, nothing is answered, and that is counted.
func TestAnswersLapse(t *testing.T) {
	forEachAnswerer(t, func(t *testing.T, ask asking) {
		n := announcing(t)
		for i, until := range []uint64{0, 1, uint64(maps.Monotonic())} {
			n.answerUntil(until)
			r, _ := ask(n, front, newRequest().frame())
			r.passed(bpf.VerdictNotOurs)
			r, _ = ask(n, front, newSolicitation().frame())
			r.passed(bpf.VerdictNotOurs)
			for _, a := range []netip.Addr{plan4.vip, plan6.vip} {
				equal(t, "announcement", maps.Announcement{MAC: front.mac(), Lapsed: uint64(i + 1)}, n.announcements(a))
			}
		}
		n.answerUntil(math.MaxUint64)
		r, sent := ask(n, front, newRequest().frame())
		r.is(bpf.VerdictAnnounced, sent)
	})
}

// TestTaggedNotAnswered: the address is on another network there, which the VLAN's own device serves.
func TestTaggedNotAnswered(t *testing.T) {
	forEachAnswerer(t, func(t *testing.T, ask asking) {
		n := announcing(t)
		for _, frame := range [][]byte{newRequest().frame(), newSolicitation().frame()} {
			for _, tag := range []uint16{0x8100, 0x88a8} {
				tagged := slices.Concat(frame[:12], binary.BigEndian.AppendUint16(nil, tag), []byte{0, 7}, frame[12:])
				if r, _ := ask(n, front, tagged); r.verdict == bpf.VerdictAnnounced {
					t.Errorf("a frame with the tag %#x is answered", tag)
				} else {
					r.passed(r.verdict)
				}
			}
		}
	})
}

// TestAnswerKeepsDeviceSum: the kernel fails the run if the sum that the device made is not that of the answer.
func TestAnswerKeepsDeviceSum(t *testing.T) {
	n := announcing(t)
	for _, frame := range [][]byte{newRequest().frame(), newSolicitation().frame()} {
		n.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, frame, 1<<2).is(bpf.VerdictAnnounced, tcRedirect)
	}
}

// TestPodsNotAnswered: pods have the node's own network, where nothing is announced.
func TestPodsNotAnswered(t *testing.T) {
	n := announcing(t)
	n.announce(pod0, plan4.vip)
	n.announce(pod0, plan6.vip)
	n.tcFrame(bpf.HookTCPod, "waggle_pod", pod0, newRequest().frame(), 0).passed(bpf.VerdictNotOurs)
	n.tcFrame(bpf.HookTCPod, "waggle_pod", pod0, newSolicitation().frame(), 0).passed(bpf.VerdictNotOurs)
	n.tcFrame(bpf.HookTCEgress, "waggle_egress", front, newRequest().frame(), 0).passed(bpf.VerdictNotOurs)
	n.tcFrame(bpf.HookTCEgress, "waggle_egress", front, newSolicitation().frame(), 0).passed(bpf.VerdictNotOurs)
}

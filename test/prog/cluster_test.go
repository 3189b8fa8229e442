// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// clusterIPs makes v.vip a service's address, with a port 80, in a range that holds v.vip2, too.
func clusterIPs(t *testing.T, v variant, rangeFlags uint32, settings ...setting) *node {
	t.Helper()
	n := newNode(t, settings...)
	n.publish(service{frontend: at(v.vip, 80), proto: v.proto, flags: bpf.ServiceClusterIP,
		external: []netip.AddrPort{at(v.pod, backendPort)}, internal: []netip.AddrPort{at(v.pod, backendPort)}})
	n.putClusterAddr(v.vip, bpf.ClusterAddrOurs)
	n.guard(around(v.vip, 8), rangeFlags)
	return n
}

func (n *node) putClusterAddr(a netip.Addr, owner uint8) {
	n.t.Helper()
	var key bpf.Addr
	for i, b := range a.As16() {
		key.Word[i/4] |= uint32(b) << (8 * (i % 4))
	}
	n.put("cluster_addrs", key, owner)
}

// guard makes a range the last one of its family, behind one that holds no address.
func (n *node) guard(prefix netip.Prefix, flags uint32) {
	n.t.Helper()
	n.putRange("cluster_ranges", prefix, bpf.ClusterRangeUsed|flags)
}

// putRange does this in a map of ranges.
func (n *node) putRange(name string, prefix netip.Prefix, flags uint32) {
	n.t.Helper()
	r := bpf.ClusterRange{Addr: words(prefix.Addr()), Flags: flags}
	mask, _ := netip.AddrFromSlice(net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen()))
	r.Mask = words(mask)
	var set bpf.ClusterRangeSet
	other := bpf.ClusterRange{Addr: [4]uint32{1}, Mask: [4]uint32{1<<32 - 1}, Flags: bpf.ClusterRangeUsed | bpf.ClusterRangeDrop}
	if prefix.Addr().Is4() {
		set.V4[0], set.V4[1] = other, r
	} else {
		set.V6[0], set.V6[1] = other, r
	}
	n.put(name, uint32(0), bpf.ClusterGuard{Current: 7, Sets: [2]bpf.ClusterRangeSet{1: set}})
}

// hooks are those that handle packets without a frontend.
func (n *node) hooks() map[string]func(frame []byte) result {
	return map[string]func([]byte) result{
		"ingress": func(b []byte) result { return n.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, b, 0) },
		"pod":     func(b []byte) result { return n.tcFrame(bpf.HookTCPod, "waggle_pod", front, b, 0) },
	}
}

// TestUnusedPort, of contract 21: a port that no service has, on an address that a service has.
func TestUnusedPort(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := clusterIPs(t, v, 0)
		p := v.packet(at(v.client, clientPort), at(v.vip, 81), seq(77))
		want := unreachable(p)
		if v.isTCP() {
			want = tcp(p.dst, p.src, refusal, flags("RA"), seq(0), ack(78)).bytes()
		}
		n.xdp(front, p).passed(bpf.VerdictNotOurs)
		for _, ask := range n.hooks() {
			ask(p.bytes()).answered(want)
			// Packets for a frontend are still served, and packets for other addresses pass.
			client := at(v.client2, clientPort)
			ask(v.packet(client, at(v.vip, 80)).bytes()).is(bpf.VerdictStack, tcNext)
			ask(v.packet(client, at(v.vip2, 80)).bytes()).passed(bpf.VerdictNotOurs)
			ask(v.packet(client, at(v.far, 80)).bytes()).passed(bpf.VerdictNotOurs)
		}
		equal(t, "records", 4, n.size(v)) // a packet from a pod opens another flow
	})
}

// TestOtherProtocols: packets of other protocols than TCP and UDP are refused likewise, if they are
// long enough.
func TestOtherProtocols(t *testing.T) {
	for _, v := range udpVariants {
		n := clusterIPs(t, v, 0)
		p := udp(at(v.client, clientPort), at(v.vip, 81), payload(30))
		for _, proto := range []layers.IPProtocol{layers.IPProtocolGRE, layers.IPProtocolUDPLite, 200} {
			other := p
			other.proto = proto
			for _, ask := range n.hooks() {
				ask(withProto(p, proto)).answered(unreachableOther(other, p, proto))
			}
		}
		for _, ask := range n.hooks() {
			frame := withProto(p, 200)
			ask(shortened(p, frame, 7)).dropped(bpf.VerdictDropError)
		}
	}
}

// withProto changes the protocol in a packet's header.
func withProto(p packet, proto layers.IPProtocol) []byte {
	frame := p.bytes()
	if !p.is4() {
		frame[ethHeader+6] = byte(proto)
		return frame
	}
	frame[ethHeader+9] = byte(proto)
	sumIP4(frame)
	return frame
}

// sumIP4 corrects an IPv4 header's checksum.
func sumIP4(frame []byte) {
	put16(frame[ethHeader+10:], 0)
	var sum uint32
	for i := ethHeader; i < ethHeader+ip4Header; i += 2 {
		sum += uint32(binary.BigEndian.Uint16(frame[i:]))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	put16(frame[ethHeader+10:], ^uint16(sum))
}

// shortened keeps so many bytes behind the IP header.
func shortened(p packet, frame []byte, l4 int) []byte {
	frame = frame[:p.l4()+l4]
	if p.is4() {
		put16(frame[ethHeader+2:], uint16(ip4Header+l4))
		sumIP4(frame)
	} else {
		put16(frame[ethHeader+4:], uint16(l4))
	}
	return frame
}

// unreachableOther is unreachable(p) for a packet with another protocol in its header.
func unreachableOther(_, p packet, proto layers.IPProtocol) []byte {
	return unreachableFrame(p, withProto(p, proto))
}

// ping is an ICMP echo request or, if echo is false, another type.
func ping(v variant, src, dst netip.Addr, echo bool, data []byte) []byte {
	p := udp(at(src, 0), at(dst, 0))
	p.ttl = 9
	return icmpFrame(p, echo, data)
}

func icmpFrame(p packet, request bool, data []byte) []byte {
	const id, sequence = 0x1234, 7
	if p.is4() {
		p.proto = layers.IPProtocolICMPv4
		kind := uint8(layers.ICMPv4TypeEchoRequest)
		if !request {
			kind = layers.ICMPv4TypeEchoReply
		}
		return p.frame(p.ip(), &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(kind, 0), Id: id, Seq: sequence}, gopacket.Payload(data))
	}
	p.proto = layers.IPProtocolICMPv6
	ip := p.ip()
	kind := uint8(layers.ICMPv6TypeEchoRequest)
	if !request {
		kind = layers.ICMPv6TypeEchoReply
	}
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(kind, 0)}
	must(icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	return p.frame(ip, icmp, &layers.ICMPv6Echo{Identifier: id, SeqNumber: sequence}, gopacket.Payload(data))
}

// TestPing, of contract 21: a ping is refused or, if so configured, answered.
func TestPing(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			for _, size := range []int{0, 1, 56, 1400} {
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(3 * i)
				}
				request := ping(v, v.client, v.vip, true, data)
				p := udp(at(v.client, 0), at(v.vip, 0), ttl(9))

				n := clusterIPs(t, v, 0)
				for _, ask := range n.hooks() {
					ask(request).answered(unreachableFrame(p, request))
				}
				n = clusterIPs(t, v, 0, variable("answer_ping", true))
				back := udp(p.dst, p.src, macs(front.mac(), p.ethSrc), ttl(64))
				for _, ask := range n.hooks() {
					r := ask(request)
					if r.is(bpf.VerdictAnswered, tcRedirect) {
						same(t, icmpFrame(back, false, data), r.out)
						sound(t, r.out)
					}
					ask(ping(v, v.client, v.vip2, true, data)).passed(bpf.VerdictNotOurs)
				}
				// with a device's sum over the whole packet
				n.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, request, deviceSums(p)).is(bpf.VerdictAnswered, tcRedirect)
			}
		})
	}
}

// unreachableFrame is the ICMP error about a frame with the addresses of p.
func unreachableFrame(p packet, frame []byte) []byte {
	answer := unreachable(p)
	quoted := len(answer) - (p.l4() + udpHeader - ethHeader)
	return resum(p, slices.Concat(answer[:quoted], frame[ethHeader:p.l4()+udpHeader]))
}

// resum corrects an ICMP error's checksum: it serialises the error anew.
func resum(p packet, frame []byte) []byte {
	rest := gopacket.Payload(frame[p.l4()+8:])
	back := udp(p.dst, p.src, refusal)
	if p.is4() {
		back.proto = layers.IPProtocolICMPv4
		code := layers.CreateICMPv4TypeCode(layers.ICMPv4TypeDestinationUnreachable, layers.ICMPv4CodePort)
		return back.frame(back.ip(), &layers.ICMPv4{TypeCode: code}, rest)
	}
	back.proto = layers.IPProtocolICMPv6
	ip := back.ip()
	icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(layers.ICMPv6TypeDestinationUnreachable, layers.ICMPv6CodePortUnreachable)}
	must(icmp.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	return back.frame(ip, icmp, gopacket.Payload(make([]byte, 4)), rest)
}

// TestNoAnswer: RFC 1122, 3.2.2: errors, packets from no single host and packets to many hosts are
// not answered, and not routed away either.
func TestNoAnswer(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		for _, answer := range []bool{false, true} {
			n := clusterIPs(t, v, 0, variable("answer_ping", answer))
			all := addr("ff02::1")
			none := addr("::")
			if v.client.Is4() {
				all, none = addr("255.255.255.255"), addr("0.0.0.0")
			}
			ask := v.packet(at(v.client, clientPort), at(v.vip, 81))
			frames := map[string][]byte{
				"an echo reply":       icmpFrame(udp(at(v.client, 0), at(v.vip, 0)), false, make([]byte, 8)),
				"from a group":        ask.with(from(at(all, clientPort))).bytes(),
				"from no host":        ask.with(from(at(none, clientPort))).bytes(),
				"a ping from a group": ping(v, all, v.vip, true, nil),
				"an ICMP error":       errorTo(v),
			}
			if v.isTCP() {
				frames["a reset"] = ask.with(flags("R")).bytes()
			}
			for name, frame := range frames {
				for hook, ask := range n.hooks() {
					if r := ask(frame); r.verdict != bpf.VerdictDropNoFlow || r.action != tcShot {
						t.Errorf("%s, %s: %s, action %d", name, hook, bpf.VerdictName(r.verdict), int32(r.action))
					}
				}
			}
		}
	})
}

// errorTo is an ICMP error that a client sends to the VIP.
func errorTo(v variant) []byte {
	frame := unreachable(udp(at(v.vip, 1), at(v.client, 2)))
	copy(frame, slices.Concat(front.mac(), net.HardwareAddr(otherGuest)))
	return frame
}

// TestUnallocated, of contract 22: in a service CIDR, packets to addresses of no service don't
// pass.
func TestUnallocated(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := clusterIPs(t, v, bpf.ClusterRangeDrop)
		p := v.packet(at(v.client, clientPort), at(v.vip2, 80))
		n.xdp(front, p).passed(bpf.VerdictNotOurs)
		for _, ask := range n.hooks() {
			ask(p.bytes()).dropped(bpf.VerdictDropUnallocated)
			ask(p.with(from(at(v.vip2, 1)), to(at(v.client, 2))).bytes()).passed(bpf.VerdictNotOurs)
			ask(p.with(to(at(v.far, 80))).bytes()).passed(bpf.VerdictNotOurs)
			ask(p.with(to(at(v.vip, 80))).bytes()).is(bpf.VerdictStack, tcNext)
			ask(p.with(to(at(v.vip, 81))).bytes()).is(bpf.VerdictRefused, tcRedirect)
			ask(ping(v, v.client, v.vip2, true, nil)).dropped(bpf.VerdictDropUnallocated)
			ask(ping(v, v.client, v.vip, true, nil)).is(bpf.VerdictRefused, tcRedirect)
		}
		// The address belongs to another proxy.
		n.putClusterAddr(v.vip2, bpf.ClusterAddrOthers)
		for _, ask := range n.hooks() {
			ask(p.bytes()).passed(bpf.VerdictNotOurs)
			ask(ping(v, v.client, v.vip2, true, nil)).passed(bpf.VerdictNotOurs)
		}
	})
}

// TestForeignError, of contract 41: an error that a client, or a router on the way to it, sends
// about another translator's answers is left to that translator, though it is for a cluster IP.
func TestForeignError(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := clusterIPs(t, v, bpf.ClusterRangeDrop)
		c := converse(n, v, otherDevice) // for its methods
		client := tuple{src: at(v.client, clientPort), dst: at(v.vip, 80), proto: v.proto}
		c.adopt(client, tuple{src: at(v.far, backendPort), dst: client.src, proto: v.proto})
		about := func(dst netip.AddrPort) []byte {
			frame := unreachable(v.packet(at(v.vip, 80), dst, flags("A"), payload(30)))
			copy(frame, slices.Concat(front.mac(), net.HardwareAddr(otherGuest)))
			return frame
		}
		for _, ask := range n.hooks() {
			ask(about(client.src)).passed(bpf.VerdictNotOurs)
			ask(about(at(v.client, clientPort+1))).dropped(bpf.VerdictDropNoFlow)
		}
	})
}

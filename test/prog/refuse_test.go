// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// TestRefuseTCP: RFC 9293, 3.5.2: an ACK is reset at its number. Other packets
// are acknowledged, so that the sender accepts the reset.
func TestRefuseTCP(t *testing.T) {
	for _, c := range []struct {
		name     string
		in       []change
		out      string
		seq, ack uint32
	}{
		{"SYN", []change{flags("S"), seq(77)}, "RA", 0, 78},
		{"SYN with options", []change{flags("S"), seq(77), tcpOptions}, "RA", 0, 78},
		{"SYN with data", []change{flags("S"), seq(77), payload(5)}, "RA", 0, 83},
		{"SYN at the end", []change{flags("S"), seq(1<<32 - 1)}, "RA", 0, 0},
		{"ACK", []change{flags("A"), seq(5), ack(900)}, "R", 900, 0},
		{"data", []change{flags("AP"), seq(5), ack(900), payload(1399)}, "R", 900, 0},
		{"FIN", []change{flags("FA"), seq(5), ack(900)}, "R", 900, 0},
		{"FIN alone", []change{flags("F"), seq(5), payload(9)}, "RA", 0, 15},
		{"SYN-ACK", []change{flags("SA"), seq(5), ack(900)}, "R", 900, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, v := range variants[:2] {
				n := newNode(t)
				frontend, client := at(v.vip, 80), at(v.client, clientPort)
				n.serve(v, frontend)
				p := tcp(client, frontend, c.in...)
				p.noDeviceSum = len(p.bytes()) > p.headers()
				n.xdp(front, p).passed(bpf.VerdictLeftToTC)
				r := n.ingress(front, p)
				r.answered(tcp(frontend, client, refusal, flags(c.out), seq(c.seq), ack(c.ack)).bytes())
				equal(t, "records", 0, n.size(v))
			}
		})
	}
}

// refusal: a packet of our own, back to the sender of the last one.
func refusal(p *packet) {
	p.ours, p.ttl = true, 64
	p.ethSrc, p.ethDst = front.mac(), []byte(otherGuest)
}

// answered expects that the packet was turned into this one, and sent back.
func (r result) answered(want []byte) {
	r.t.Helper()
	if r.is(bpf.VerdictRefused, tcRedirect) {
		same(r.t, want, r.out)
		sound(r.t, r.out)
	}
	r.had()
}

// TestRefuseUDP: RFC 792 and RFC 4443, 3.1: port unreachable.
func TestRefuseUDP(t *testing.T) {
	for _, v := range udpVariants {
		t.Run(v.name, func(t *testing.T) {
			n := newNode(t)
			frontend, client := at(v.vip, 53), at(v.client, clientPort)
			n.serve(v, frontend)
			for _, size := range []int{0, 1, 2, 7, 30, 500, 1399} {
				p := udp(client, frontend, payload(size))
				p.noDeviceSum = size > 0
				n.xdp(front, p).passed(bpf.VerdictLeftToTC)
				r := n.ingress(front, p)
				r.answered(unreachable(r.sent))
			}
			equal(t, "records", 0, n.size(v))
		})
	}
	t.Run("no checksum", func(t *testing.T) {
		n := newNode(t)
		frontend := at(plan4.vip, 53)
		n.serve(variants[2], frontend)
		r := n.ingress(front, udp(at(plan4.client, clientPort), frontend, noChecksum, payload(8)))
		r.answered(unreachable(r.sent))
	})
}

// unreachable is the ICMP error about a packet, which it quotes to the eighth
// byte behind the IP header.
func unreachable(p packet) []byte {
	e := icmp{kind: layers.ICMPv4TypeDestinationUnreachable, code: layers.ICMPv4CodePort}
	if !p.is4() {
		e = icmp{kind: layers.ICMPv6TypeDestinationUnreachable, code: layers.ICMPv6CodePortUnreachable}
	}
	return e.about(p, p.dst.Addr(), p.src.Addr()).with(refusal).bytes()
}

// TestRefusePadded: a short packet is padded to Ethernet's least size. The
// padding is no data.
func TestRefusePadded(t *testing.T) {
	for _, v := range variants {
		t.Run(v.name, func(t *testing.T) {
			n := newNode(t)
			frontend, client := at(v.vip, 53), at(v.client, clientPort)
			n.serve(v, frontend)
			p := v.packet(client, frontend, seq(77))
			padded := append(p.bytes(), make([]byte, 18)...)
			r := n.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, padded, 0)
			if v.isTCP() {
				r.answered(tcp(frontend, client, refusal, flags("RA"), seq(0), ack(78)).bytes())
			} else {
				r.answered(unreachable(p))
			}
		})
	}
}

// TestRefusePod: pods are refused by the hook on their device.
func TestRefusePod(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		n.serve(v, at(v.vip, 80))
		r := n.podIngress(pod0, v.packet(at(v.pod, clientPort), at(v.vip, 80), cutShort))
		r.is(bpf.VerdictRefused, tcRedirect)
		sound(t, r.out)
	})
}

// TestRefuseOptions: with IP options there is no room to make a reset in. An
// ICMP error quotes the options.
func TestRefuseOptions(t *testing.T) {
	for _, v := range []variant{tcpVariants[0], udpVariants[0], sctpVariants[0]} {
		n := newNode(t)
		n.serve(v, at(v.vip, 80))
		p := v.packet(at(v.client, clientPort), at(v.vip, 80), ipOption)
		p.noDeviceSum = true
		r := n.ingress(front, p)
		if v.isTCP() {
			r.dropped(bpf.VerdictDropError)
		} else {
			r.answered(unreachable(r.sent))
		}
	}
}

// TestNoLocalEndpoint: the policy allows none of the endpoints here, and the
// packet is dropped without an answer.
func TestNoLocalEndpoint(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		frontend := at(v.vip, 80)
		fromOutside := v.packet(at(v.client, clientPort), frontend, cutShort)
		fromPod := v.packet(at(v.pod, clientPort), frontend, cutShort)

		n.publish(service{frontend: frontend, proto: v.proto, flags: bpf.ServiceExternalDrop})
		n.xdp(front, fromOutside).dropped(bpf.VerdictDropNoLocalEndpoint)
		n.ingress(front, fromOutside).dropped(bpf.VerdictDropNoLocalEndpoint)
		n.podIngress(pod0, fromPod).is(bpf.VerdictRefused, tcRedirect)

		n.publish(service{frontend: frontend, proto: v.proto, flags: bpf.ServiceInternalDrop})
		n.ingress(front, fromOutside).is(bpf.VerdictRefused, tcRedirect)
		n.podIngress(pod0, fromPod).dropped(bpf.VerdictDropNoLocalEndpoint)
		equal(t, "records", 0, n.size(v))
	})
}

// TestUnknownReset, of contract 34: a reset for no connection of ours is not
// answered, and opens no flow, whether the service has backends or not.
func TestUnknownReset(t *testing.T) {
	for _, v := range connected {
		t.Run(v.name, func(t *testing.T) {
			n := newNode(t)
			n.serve(v, at(v.vip, 80), at(v.far, backendPort))
			n.serve(v, at(v.vip, 81))
			for _, port := range []uint16{80, 81} {
				for _, f := range []string{"R", "RA"} {
					p := v.packet(at(v.client, clientPort), at(v.vip, port), flags(f))
					n.xdp(front, p).dropped(bpf.VerdictDropNoFlow)
					n.ingress(front, p).dropped(bpf.VerdictDropNoFlow)
				}
			}
			equal(t, "records", 0, n.size(v))
		})
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// icmp is an ICMP message. An error quotes a packet.
type icmp struct {
	kind, code uint8
	rest       uint32 // of the header: the MTU, or a pointer
	quote      packet
	quoted     int // the number of quoted bytes
}

// about makes the error about a packet, which it quotes to the eighth byte behind the IP header
// (for TCP, all of the header). A quoted transport checksum is unchanged, whatever the addresses
// are.
func (e icmp) about(p packet, src, dst netip.Addr) packet {
	e.quote, e.quoted = p, p.l4()-ethHeader+udpHeader
	if p.proto == layers.IPProtocolTCP {
		e.quoted += tcpHeader - udpHeader
	}
	whole := p
	whole.piece = nil
	e.quote.checksum = slices.Clone(whole.transportSum(whole.bytes()))
	return e.from(src, dst)
}

// from is the message with its addresses.
func (e icmp) from(src, dst netip.Addr) packet {
	proto := layers.IPProtocolICMPv4
	if src.Is6() {
		proto = layers.IPProtocolICMPv6
	}
	out := newPacket(proto, at(src, 0), at(dst, 0), nil)
	out.icmp = &e
	return out
}

// quoting changes the packet that an error quotes.
func quoting(changes ...change) change {
	return func(p *packet) {
		e := *p.icmp
		e.quote = e.quote.with(changes...)
		p.icmp = &e
	}
}

// only shortens the quote to so many bytes.
func only(quoted int) change {
	return func(p *packet) {
		e := *p.icmp
		e.quoted = quoted
		p.icmp = &e
	}
}

func fromHost(a netip.Addr) change { return func(p *packet) { p.src = at(a, 0) } }
func toHost(a netip.Addr) change   { return func(p *packet) { p.dst = at(a, 0) } }

func (p packet) icmpBytes() []byte {
	e, ip := p.icmp, p.ip()
	body := binary.BigEndian.AppendUint32(nil, e.rest)
	if e.quoted > 0 {
		body = append(body, e.quote.bytes()[ethHeader:][:e.quoted]...)
	}
	if p.is4() {
		header := &layers.ICMPv4{
			TypeCode: layers.CreateICMPv4TypeCode(e.kind, e.code), Id: uint16(e.rest >> 16), Seq: uint16(e.rest),
		}
		return p.frame(ip, header, gopacket.Payload(body[4:]))
	}
	header := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(e.kind, e.code)}
	must(header.SetNetworkLayerForChecksum(ip.(gopacket.NetworkLayer)))
	return p.frame(ip, header, gopacket.Payload(body))
}

// icmpErrors are all kinds of errors.
func icmpErrors(v variant) []icmp {
	if v.client.Is4() {
		return []icmp{
			{kind: 3, code: 0}, {kind: 3, code: 1}, {kind: 3, code: 3}, {kind: 3, code: 4, rest: 1400},
			{kind: 3, code: 13}, {kind: 11, code: 0}, {kind: 11, code: 1}, {kind: 12, code: 0, rest: 20 << 24},
		}
	}
	return []icmp{
		{kind: 1, code: 0}, {kind: 1, code: 4}, {kind: 2, rest: 1400}, {kind: 3, code: 0}, {kind: 4, code: 1, rest: 40},
	}
}

// anyError is one of them.
func anyError(v variant) icmp { return icmpErrors(v)[2] }

func (c *conversation) isSplit() bool { return c.halves == 3 }

// elsewhere is a router that is in no flow.
func (v variant) elsewhere() netip.Addr { return v.router }

// errorToBackend: a reply could not be delivered, and the error goes to the frontend, its apparent
// sender.
func (c *conversation) errorToBackend(e icmp, src netip.Addr, changes ...change) {
	c.t.Helper()
	reply := c.packet(c.frontend, c.client, synAck, ttl(9))
	p := e.about(reply, src, c.frontend.Addr()).with(changes...)
	c.xdp(front, p).passed(bpf.VerdictNotOurs)
	r := c.ingress(front, p)
	quote := quoting(from(c.backend), to(c.source))
	switch {
	case c.isSplit():
		routed := r.became(bpf.VerdictICMPError, tcNext, quote, toHost(c.backend.Addr())).with(hopDown)
		r = c.egress(c.out, routed)
		r.became(bpf.VerdictICMPError, tcNext, fromHost(c.source.Addr()))
	case c.atEgress:
		r.became(bpf.VerdictICMPError, tcNext, quote, toHost(c.backend.Addr()))
	default:
		r.became(bpf.VerdictICMPError, tcRedirect, quote,
			fromHost(c.source.Addr()), toHost(c.backend.Addr()), hopDown)
	}
	r.had()
}

// errorToClient: likewise about a request, on its way behind the node.
func (c *conversation) errorToClient(e icmp, src netip.Addr, changes ...change) {
	c.t.Helper()
	request := c.packet(c.source, c.backend, acked, ttl(9))
	p := e.about(request, src, c.source.Addr()).with(changes...)
	quote := quoting(from(c.client), to(c.frontend))
	var r result
	if c.atEgress {
		c.podIngress(pod0, p).passed(bpf.VerdictNotOurs)
		r = c.egress(front, p)
		r.became(bpf.VerdictICMPError, tcNext, quote, fromHost(c.frontend.Addr()))
	} else {
		c.xdp(c.out, p).passed(bpf.VerdictNotOurs)
		r = c.ingress(c.out, p)
		r.became(bpf.VerdictICMPError, tcRedirect, quote,
			fromHost(c.frontend.Addr()), toHost(c.client.Addr()), hopDown)
	}
	r.had()
}

// TestICMPErrors, of contract 41: all errors, from any source, in both directions, about confirmed
// and unconfirmed flows.
func TestICMPErrors(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		for _, confirmed := range []bool{false, true} {
			for _, e := range icmpErrors(v) {
				c.errorToBackend(e, v.elsewhere())
				c.errorToBackend(e, c.client.Addr())
				c.errorToClient(e, v.elsewhere())
				c.errorToClient(e, c.backend.Addr())
				c.errorToClient(e, v.front) // of the node's own kernel
			}
			c.stands(confirmed)
			if !confirmed {
				c.reply()
				c.request(acked)
			}
		}
	})
}

// TestICMPErrorBetweenHooks: the kernel can't route a split flow's packet on, whose source is still
// the client's.
func TestICMPErrorBetweenHooks(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, split)
		c.establish()
		between := at(c.client.Addr(), c.source.Port())
		for _, e := range icmpErrors(v) {
			p := e.about(c.packet(between, c.backend, acked, payload(99)), v.front, c.client.Addr())
			c.egress(front, p).became(bpf.VerdictICMPError, tcNext,
				quoting(from(c.client), to(c.frontend)), fromHost(c.frontend.Addr()))
		}
	})
}

// TestICMPErrorHairpin: a pod that reaches itself gets errors about its own packets.
func TestICMPErrorHairpin(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		c := &conversation{
			node: n, path: hairpin, variant: v,
			client: at(v.pod, clientPort), backend: at(v.pod, backendPort), frontend: at(v.vip, 80),
		}
		n.serve(v, c.frontend, c.backend)
		c.establish()
		e := anyError(v)
		request := e.about(c.packet(c.source, c.backend, acked), v.pod, c.source.Addr())
		c.podIngress(pod0, request).became(bpf.VerdictICMPError, tcRedirect,
			quoting(from(c.client), to(c.frontend)), fromHost(c.frontend.Addr()), toHost(v.pod), hopDown, turned)
		reply := e.about(c.packet(c.frontend, c.client, synAck), v.pod, c.frontend.Addr())
		c.podIngress(pod0, reply).became(bpf.VerdictICMPError, tcRedirect,
			quoting(from(c.backend), to(c.source)), fromHost(c.source.Addr()), toHost(v.pod), hopDown, turned)
	})
}

// TestICMPErrorQuotes: quotes of all lengths, from the ports on.
func TestICMPErrorQuotes(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		request := c.packet(c.source, c.backend, acked, payload(600))
		header := request.l4() - ethHeader
		for _, quoted := range []int{header + 4, header + 5, header + 7, header + 8, header + 20, header + 21, header + 555} {
			c.errorToBackend(anyError(v), v.elsewhere(), quoting(payload(600)), only(quoted))
			c.errorToClient(anyError(v), v.elsewhere(), quoting(payload(600)), only(quoted))
		}
		if v.client.Is4() {
			c.errorToBackend(anyError(v), v.elsewhere(), quoting(ipOption), only(header+4+8))
			c.errorToClient(anyError(v), v.elsewhere(), quoting(ipOption), only(header+4+8))
			c.errorToClient(anyError(v), v.elsewhere(), ipOption)
		}
		for quoted := range header + 4 {
			e := anyError(v).about(request, v.elsewhere(), c.source.Addr()).with(only(quoted))
			if c.atEgress {
				c.egress(front, e).passed(bpf.VerdictNotOurs)
			} else {
				c.ingress(c.out, e).passed(bpf.VerdictNotOurs)
			}
		}
	})
}

// TestICMPErrorAboutFragments: only the first fragment has ports.
func TestICMPErrorAboutFragments(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		pieces := c.packet(c.source, c.backend, acked, payload(3000)).pieces(1400)
		first := anyError(v).about(pieces[0], v.elsewhere(), c.source.Addr())
		later := anyError(v).about(pieces[1], v.elsewhere(), c.source.Addr())
		quote := quoting(from(c.client), to(c.frontend))
		if c.atEgress {
			c.egress(front, first).became(bpf.VerdictICMPError, tcNext, quote, fromHost(c.frontend.Addr()))
			c.egress(front, later).passed(bpf.VerdictNotOurs)
			return
		}
		c.ingress(c.out, first).became(bpf.VerdictICMPError, tcRedirect, quote,
			fromHost(c.frontend.Addr()), toHost(c.client.Addr()), hopDown)
		c.ingress(c.out, later).passed(bpf.VerdictNotOurs)
	})
}

// TestICMPErrorChangesNothing: errors can neither keep a flow alive nor end it.
func TestICMPErrorChangesNothing(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		c.ageBy(second+second/2, 0, 1)
		before := c.contents()
		for _, e := range icmpErrors(v) {
			c.errorToBackend(e, v.elsewhere())
			c.errorToClient(e, v.elsewhere())
		}
		after := c.contents()
		for i := range after { // errors need the next hop, as packets do
			after[i].Hop = before[i].Hop
		}
		sameRecords(t, before, after)
	})
}

// contents are all records of the conversation's family.
func (c *conversation) contents() []record {
	records, _ := c.flowTable(c.client.Addr()).contents()
	return records
}

// TestICMPErrorOfDeadFlow: a record past its time counts as absent.
func TestICMPErrorOfDeadFlow(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		for _, confirmed := range []bool{false, true} {
			c := converse(newNode(t), v, p)
			c.request()
			if confirmed {
				c.reply()
				c.request(acked)
			}
			c.age(0, 1)
			c.strangeError(anyError(v))
		}
	})
}

// TestICMPErrorForged: errors about unknown packets.
func TestICMPErrorForged(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		before := c.size(v)
		other := *c
		other.client = at(c.client.Addr(), c.client.Port()+1)
		other.source = at(c.source.Addr(), c.source.Port()+1)
		for _, e := range icmpErrors(v) {
			other.strangeError(e)
		}
		equal(t, "records", before, c.size(v))
	})
}

// strangeError expects that an error is not translated, in either direction, at any hook.
func (c *conversation) strangeError(e icmp) {
	c.t.Helper()
	toBackend := e.about(c.packet(c.frontend, c.client, synAck), c.elsewhere(), c.frontend.Addr())
	toClient := e.about(c.packet(c.source, c.backend, acked), c.elsewhere(), c.source.Addr())
	for _, p := range []packet{toBackend, toClient} {
		c.xdp(front, p).passed(bpf.VerdictNotOurs)
		c.ingress(front, p).passed(bpf.VerdictNotOurs)
		c.podIngress(pod0, p).passed(bpf.VerdictNotOurs)
		c.egress(front, p).passed(bpf.VerdictNotOurs)
	}
}

// TestICMPOther: messages that are no errors are not translated.
func TestICMPOther(t *testing.T) {
	kinds := map[bool][]uint8{true: {0, 4, 5, 8, 13}, false: {0, 5, 100, 127, 128, 129, 133, 135, 137}}
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		for _, kind := range kinds[v.client.Is4()] {
			c.strangeError(icmp{kind: kind})
		}
	})
}

// TestICMPQuotedOther: an error about a packet without ports, or about another IP version.
func TestICMPQuotedOther(t *testing.T) {
	for _, v := range udpVariants {
		c := converse(newNode(t), v, stack)
		c.establish()
		for _, mangle := range []func([]byte){
			func(quote []byte) { quote[9-3*b2i(!v.client.Is4())] = byte(layers.IPProtocolGRE) },
			func(quote []byte) { quote[0] ^= 0x20 },
			func(quote []byte) { quote[0] &= 0x0f },
		} {
			frame := anyError(v).about(c.packet(c.source, c.backend), v.elsewhere(), c.source.Addr()).bytes()
			l4 := ethHeader + ip4Header + b2i(!v.client.Is4())*(ip6Header-ip4Header)
			mangle(frame[l4+8:])
			for _, r := range c.everywhere(frame) {
				r.passed(bpf.VerdictNotOurs)
			}
		}
	}
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// TestICMPErrorTTL: an error is forwarded like a packet.
func TestICMPErrorTTL(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		p := anyError(v).about(c.packet(c.source, c.backend), v.elsewhere(), c.source.Addr())
		c.ingress(c.out, p.with(ttl(1))).dropped(bpf.VerdictDropTTL)
		c.errorToClient(anyError(v), v.elsewhere(), ttl(2))
	})
}

func (e icmp) String() string { return fmt.Sprintf("ICMP %d/%d", e.kind, e.code) }

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"testing"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

const fragmentHeader = 8 // IPv6's

// piece is the part of a packet's transport data in a fragment.
type piece struct {
	start, end, whole int
	id                uint32
}

// pieces cuts a packet into fragments of so many bytes. The checksum is that of the whole packet.
func (p packet) pieces(size int) []packet {
	whole := len(p.bytes()) - p.l4()
	var all []packet
	for start := 0; start < whole; start += size {
		all = append(all, p.cutOut(start, min(start+size, whole)))
	}
	return all
}

func (p packet) cutOut(start, end int) packet {
	cut := &piece{start: start, end: end, whole: len(p.bytes()) - p.l4(), id: 0x89ab}
	if !p.is4() {
		cut.id = 0x89abcdef
	}
	p.piece = cut
	return p
}

func id(n uint32) change {
	return func(p *packet) {
		cut := *p.piece
		cut.id = n
		p.piece = &cut
	}
}

func (p packet) pieceBytes() []byte {
	cut := p.piece
	p.piece = nil
	data := p.bytes()[p.l4():][cut.start:cut.end]
	more := cut.end < cut.whole
	if p.is4() {
		ip := p.ip().(*layers.IPv4)
		ip.Id, ip.Flags, ip.FragOffset = uint16(cut.id), 0, uint16(cut.start/8)
		if more {
			ip.Flags = layers.IPv4MoreFragments
		}
		return p.frame(ip, gopacket.Payload(data))
	}
	header := []byte{byte(p.proto), 0}
	header = binary.BigEndian.AppendUint16(header, uint16(cut.start+b2i(more)))
	header = binary.BigEndian.AppendUint32(header, cut.id)
	ip := p.ip().(*layers.IPv6)
	ip.NextHeader = layers.IPProtocolIPv6Fragment
	return p.frame(ip, gopacket.Payload(append(header, data...)))
}

// requestPiece sends a fragment on the path of a request. XDP leaves all fragments to tc.
func (c *conversation) requestPiece(p packet) {
	c.t.Helper()
	c.events = nil
	c.xdp(front, p).passed(bpf.VerdictFragment)
	r := c.ingress(front, p)
	c.learn(r)
	switch {
	case c.isSplit():
		half := at(c.client.Addr(), c.source.Port())
		routed := r.became(bpf.VerdictStack, tcNext, from(half), to(c.backend)).with(hopDown)
		r = c.egress(c.out, routed)
		c.events = append(c.events, r.events...)
		r.became(bpf.VerdictSource, tcNext, from(c.source))
	case c.atEgress:
		r.became(bpf.VerdictStack, tcNext, from(c.source), to(c.backend))
	default:
		r.became(bpf.VerdictExpress, tcRedirect,
			from(c.source), to(c.backend), c.transmitted(c.out, c.backend.Addr()))
	}
}

// replyPiece sends a fragment on the path of a reply.
func (c *conversation) replyPiece(p packet) {
	c.t.Helper()
	c.events = nil
	if c.atEgress {
		c.podIngress(pod0, p).passed(c.unknown(p))
		r := c.egress(front, p)
		c.events = r.events
		r.became(bpf.VerdictSource, tcNext, from(c.frontend), to(c.client))
		return
	}
	c.xdp(c.out, p).passed(bpf.VerdictFragment)
	r := c.ingress(c.out, p)
	c.events = r.events
	r.became(bpf.VerdictExpress, tcRedirect, from(c.frontend), to(c.client), c.returned())
}

// unknown is the verdict on a fragment of a packet that is not ours.
func (c *conversation) unknown(p packet) bpf.Verdict {
	if p.piece.start == 0 {
		return bpf.VerdictNotOurs
	}
	return bpf.VerdictFragment
}

func (c *conversation) requestPieces(changes ...change) []packet {
	return c.packet(c.client, c.frontend, acked, c.large()).with(changes...).pieces(1400)
}

func (c *conversation) replyPieces(changes ...change) []packet {
	return c.packet(c.backend, c.source, synAck, flags("A"), c.large()).with(changes...).pieces(1400)
}

// large is a payload for three fragments. SCTP pads it to four bytes.
func (c *conversation) large() change {
	if c.isTCP() || c.isUDP() {
		return payload(4001)
	}
	return payload(4000)
}

// TestFragments, of contract 40: fragments in both directions, in order. Each is counted under its
// result.
func TestFragments(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		for range 2 {
			for _, piece := range c.requestPieces() {
				c.requestPiece(piece)
				c.had()
			}
			for _, piece := range c.replyPieces() {
				c.replyPiece(piece)
				c.had()
			}
		}
		if v.name == "udp4" {
			for _, piece := range c.requestPieces(noChecksum) {
				c.requestPiece(piece)
			}
		}
		c.standsConfirmed()
	})
}

// TestFragmentsOpen: fragments may open, answer and confirm a flow.
func TestFragmentsOpen(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if !v.isUDP() {
			t.Skip("UDP only")
		}
		c := converse(newNode(t), v, p)
		pieces := c.requestPieces()
		c.requestPiece(pieces[0])
		c.had(bpf.VerdictFlowOpened)
		c.requestPiece(pieces[1])
		c.requestPiece(pieces[2])
		c.had()
		for _, piece := range c.replyPieces() {
			c.replyPiece(piece)
			c.had()
		}
		c.requestPiece(pieces[1]) // its first fragment came before the answer
		c.had()
		c.standsUnconfirmed()
		c.requestPiece(pieces[0])
		c.had(bpf.VerdictFlowConfirmed)
		c.standsConfirmed()
		c.requestPiece(pieces[1])
	})
}

// TestFragmentOvertakes: a fragment that comes before the first one is left to the stack unchanged.
func TestFragmentOvertakes(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		request, reply := c.requestPieces(), c.replyPieces()
		for _, r := range append(c.everywhere(request[1].bytes()), c.everywhere(reply[2].bytes())...) {
			r.passed(bpf.VerdictFragment)
		}
		c.requestPiece(request[0])
		c.requestPiece(request[2])
		c.requestPiece(request[1])
		c.replyPiece(reply[0])
		c.replyPiece(reply[2])
	})
}

// TestFragmentsApart: an identification belongs to one pair of hosts, one protocol and one
// direction.
func TestFragmentsApart(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		pieces := c.requestPieces()
		c.requestPiece(pieces[0])
		later := pieces[1]
		strangers := []packet{
			later.with(id(0x89ac)),
			later.with(from(at(v.client2, clientPort))),
			later.with(to(at(v.vip, nodePort))),
			later.with(from(c.frontend), to(c.client)),
		}
		for _, proto := range []layers.IPProtocol{layers.IPProtocolTCP, layers.IPProtocolUDP, layers.IPProtocolSCTP} {
			if proto != later.proto {
				strangers = append(strangers, later.with(func(p *packet) { p.proto = proto }))
			}
		}
		for _, stranger := range strangers {
			c.ingress(front, stranger).passed(bpf.VerdictFragment)
		}
		c.egress(front, later).passed(bpf.VerdictFragment)
		c.requestPiece(later)
	})
}

// TestFragmentsAge: like the kernel, the datapath waits half a minute for the rest of a packet.
func TestFragmentsAge(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t, variable("timeout_tcp", uint32(longest)), variable("timeout_udp", uint32(longest))), v, p)
		c.establish()
		pieces := c.requestPieces()
		c.requestPiece(pieces[0])
		c.ageFragments(29 * second)
		c.requestPiece(pieces[1])
		c.ageFragments(31 * second)
		c.ingress(front, pieces[2]).passed(bpf.VerdictFragment)
		c.requestPiece(pieces[0])
		c.requestPiece(pieces[2])
	})
}

// ageFragments makes all first fragments older.
func (n *node) ageFragments(jiffies uint32) {
	n.t.Helper()
	var key, value []byte
	m := n.maps["fragments"]
	aged := 0
	for entries := m.Iterate(); entries.Next(&key, &value); aged++ {
		binary.NativeEndian.PutUint32(value[4:], n.jiffies()-jiffies)
		if err := m.Put(key, value); err != nil {
			n.t.Fatal(err)
		}
	}
	if aged == 0 {
		n.t.Fatal("no fragment is known")
	}
}

// TestFragmentOfLostFlow: a later fragment has too few fields to open a flow.
func TestFragmentOfLostFlow(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		pieces := c.requestPieces()
		c.requestPiece(pieces[0])
		for _, k := range c.keys() {
			c.remove(k)
		}
		c.ingress(front, pieces[1]).passed(bpf.VerdictFragment)
		equal(t, "records", 0, c.size(v))
	})
}

// TestFragmentRefused: the first fragment is answered like a packet, the others are not.
func TestFragmentRefused(t *testing.T) {
	for _, v := range udpVariants {
		n := newNode(t)
		frontend, client := at(v.vip, 53), at(v.client, clientPort)
		n.serve(v, frontend)
		pieces := v.packet(client, frontend, payload(3000)).pieces(1400)
		pieces[0].noDeviceSum = true
		r := n.ingress(front, pieces[0])
		r.answered(unreachable(r.sent))
		n.ingress(front, pieces[1]).passed(bpf.VerdictFragment)
		equal(t, "records", 0, n.size(v))
	}
}

// TestFragmentAtomic: RFC 6946: a packet that is its own only fragment.
func TestFragmentAtomic(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if v.client.Is4() {
			t.Skip("IPv6 only")
		}
		c := converse(newNode(t), v, p)
		c.establish()
		c.requestPiece(c.packet(c.client, c.frontend, acked, payload(52)).pieces(1400)[0])
		c.replyPiece(c.packet(c.backend, c.source, acked, payload(52)).pieces(1400)[0])
	})
}

// TestFragmentTooShort: a first fragment without its transport header, with or without bytes behind
// it.
func TestFragmentTooShort(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		whole := c.packet(c.client, c.frontend, acked, payload(100))
		least := whole.headers() - whole.l4()
		for _, size := range []int{0, 1, 4, least - 1} {
			frame := whole.cutOut(0, size).bytes()
			for _, frame := range [][]byte{frame, append(frame, make([]byte, 40)...)} {
				c.xdpFrame(front, frame).passed(bpf.VerdictFragment)
				c.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, frame, 0).passed(bpf.VerdictUnparsed)
			}
		}
		c.requestPiece(whole.cutOut(0, (least+7)/8*8))
		if !v.client.Is4() {
			frame := whole.cutOut(0, 0).bytes()
			frame = frame[:len(frame)-1] // a byte of the fragment header is missing
			c.tcFrame(bpf.HookTCIngress, "waggle_ingress", front, frame, 0).passed(bpf.VerdictUnparsed)
		}
	})
}

// TestFragmentsSCTP: fragments pass if the first one doesn't show the length of the whole packet,
// which the checksum covers: there are more chunks than one.
func TestFragmentsSCTP(t *testing.T) {
	for _, v := range sctpVariants {
		c := converse(newNode(t), v, otherDevice)
		c.establish()
		pieces := c.requestPieces()
		for _, length := range []uint16{4, 4 * 300, 1400 - sctpHeader - 4} {
			frame := pieces[0].bytes()
			binary.BigEndian.PutUint16(frame[pieces[0].l4()+sctpHeader+2:], length)
			for _, r := range append(c.everywhere(frame), c.everywhere(pieces[1].bytes())...) {
				r.passed(bpf.VerdictFragment)
			}
		}
		c.requestPiece(pieces[0])
		c.requestPiece(pieces[1])
	}
}

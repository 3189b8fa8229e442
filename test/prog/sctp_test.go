// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"hash/crc32"
	"strings"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// Chunk types, RFC 9260, 3.2.
const (
	sctpData             = 0
	sctpInit             = 1
	sctpInitAck          = 2
	sctpHeartbeat        = 4
	sctpAbort            = 6
	sctpShutdown         = 7
	sctpShutdownAck      = 8
	sctpCookieEcho       = 10
	sctpShutdownComplete = 14
)

// chunkType returns the chunk that corresponds to the TCP flags, so that tests of connections test
// associations as well.
func (p packet) chunkType() byte {
	has := func(f string) bool { return strings.Contains(p.flags, f) }
	switch {
	case p.chunkAs != nil:
		return *p.chunkAs
	case p.flags == "SA":
		return sctpInitAck
	case has("S"):
		return sctpInit
	case has("R"):
		return sctpAbort
	case has("F"):
		return sctpShutdown
	case len(p.payload) == 0:
		return sctpCookieEcho
	}
	return sctpData
}

func chunk(kind byte) change { return func(p *packet) { p.chunkAs = &kind } }

// sctp: TCP's acknowledgement corresponds to the tag that the other side has asked for, which an
// INIT can't know.
func (p packet) sctp() *layers.SCTP {
	l := &layers.SCTP{
		SrcPort: layers.SCTPPort(p.src.Port()), DstPort: layers.SCTPPort(p.dst.Port()), VerificationTag: p.ack,
	}
	if p.chunkType() == sctpInit {
		l.VerificationTag = 0
	}
	return l
}

// chunk is everything behind the common header. The tag that it asks for is one more than a SYN's
// number, like the number that acknowledges a SYN.
func (p packet) chunk() []byte {
	var body []byte
	switch p.chunkType() {
	case sctpInit, sctpInitAck:
		body = binary.BigEndian.AppendUint32(body, p.seq+1)
		body = binary.BigEndian.AppendUint32(body, 65536) // window
		body = binary.BigEndian.AppendUint32(body, 10<<16|10)
		body = binary.BigEndian.AppendUint32(body, 77) // TSN
	case sctpData:
		body = append(body, 0, 0, 0, 78, 0, 1, 0, 0, 0, 0, 0, 0)
	}
	body = append(body, p.payload...)
	header := []byte{p.chunkType(), 3, 0, 0}
	binary.BigEndian.PutUint16(header[2:], uint16(4+len(body)))
	return append(header, body...)
}

// checkSCTP verifies a packet's checksum, if it has one.
func checkSCTP(t *testing.T, l4 []byte) {
	t.Helper()
	zeroed := append([]byte(nil), l4...)
	clear(zeroed[8:sctpHeader])
	want := crc32.Checksum(zeroed, crc32.MakeTable(crc32.Castagnoli))
	if got := binary.LittleEndian.Uint32(l4[8:]); got != want && got != 0 {
		t.Errorf("SCTP checksum is %#x, want %#x", got, want)
	}
}

// TestSCTPUnprovenTag: a host that has not seen the INIT ACK does not know the tag, and a similar
// tag does not confirm.
func TestSCTPUnprovenTag(t *testing.T) {
	forSCTP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		c.request(acked) // before any INIT ACK
		c.standsUnconfirmed()
		c.reply()
		for _, tag := range []uint32{0, 1, backendSeq - 1, backendSeq, backendSeq + 2, 1 << 31} {
			c.request(acked, ack(tag))
			c.request(acked, ack(tag), payload(20))
			c.had()
			c.standsUnconfirmed()
		}
		c.request(acked)
		c.had(bpf.VerdictFlowConfirmed)
		c.standsConfirmed()
	})
}

// TestSCTPRetransmittedInitAck: the tag of the last one counts.
func TestSCTPRetransmittedInitAck(t *testing.T) {
	forSCTP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request()
		c.reply()
		c.reply(seq(5000))
		c.request(acked)
		c.standsUnconfirmed()
		c.request(acked, ack(5001))
		c.standsConfirmed()
	})
}

// TestSCTPUnderWay: an association that is older than its flow.
func TestSCTPUnderWay(t *testing.T) {
	forSCTP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request(acked, payload(100))
		c.had(bpf.VerdictFlowOpened)
		c.reply(flags("A"), payload(100))
		c.request(acked, payload(101))
		c.had(bpf.VerdictFlowConfirmed)
		c.standsConfirmed()
	})
}

// TestSCTPClose: each chunk that closes does so, and none of the others.
func TestSCTPClose(t *testing.T) {
	forSCTP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		for kind := range byte(16) {
			switch kind {
			case sctpInit, sctpInitAck, sctpAbort, sctpShutdown, sctpShutdownAck, sctpShutdownComplete:
			default:
				c.request(acked, chunk(kind))
				c.reply(flags("A"), chunk(kind))
			}
		}
		c.request() // a restarted peer sends an INIT; the association goes on
		c.had()
		c.reply()
		c.state(alive)
		c.request(acked, chunk(sctpShutdown))
		c.state(alive | bpf.StateFinClient)
		c.reply(flags("A"), chunk(sctpShutdownAck))
		c.state(alive | bpf.StateFinClient | bpf.StateFinBackend)
		c.request(acked, chunk(sctpShutdownComplete))
		c.had()
		reopen(c)
		c.request(acked, chunk(sctpHeartbeat))
		c.state(alive)
	})
}

// TestSCTPWithoutChecksum: a checksum that is left to a device stays so.
func TestSCTPWithoutChecksum(t *testing.T) {
	forSCTP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.request(noChecksum)
		c.reply(noChecksum, payload(13))
		c.request(acked, noChecksum, payload(1400))
	})
}

// TestSCTPLengths: the checksum's change depends on the length, bit by bit.
func TestSCTPLengths(t *testing.T) {
	forSCTP(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		c.establish()
		for _, size := range []int{1, 2, 3, 4, 5, 63, 64, 65, 127, 128, 255, 257, 1023, 1024, 1025, 1431, 1432} {
			c.request(acked, payload(size))
			c.reply(flags("A"), payload(size))
		}
	})
}

// TestRefuseSCTP, of contract 20: port unreachable.
func TestRefuseSCTP(t *testing.T) {
	for _, v := range sctpVariants {
		t.Run(v.name, func(t *testing.T) {
			n := newNode(t)
			frontend, client := at(v.vip, 80), at(v.client, clientPort)
			n.serve(v, frontend)
			for _, changes := range []change{flags("S"), acked, payload(1400)} {
				p := v.packet(client, frontend, changes)
				p.noDeviceSum = true
				n.xdp(front, p).passed(bpf.VerdictLeftToTC)
				r := n.ingress(front, p)
				r.answered(unreachable(r.sent))
			}
			equal(t, "records", 0, n.size(v))
		})
	}
}

// TestSCTPTruncated: an INIT ACK without room for its tag, an INIT without room for its chunk.
func TestSCTPTruncated(t *testing.T) {
	for _, v := range sctpVariants {
		n, ours := serving(t, v)
		for _, p := range []packet{ours, ours.with(flags("SA"))} {
			for _, r := range n.everywhere(p.bytes()[:p.headers()-1]) {
				r.passed(bpf.VerdictUnparsed)
			}
		}
		equal(t, "records", 0, n.size(v))
	}
}

// forSCTP leaves out TCP and UDP.
func forSCTP(t *testing.T, test func(*testing.T, variant, path)) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		if v.isTCP() || v.isUDP() {
			t.Skip("SCTP only")
		}
		test(t, v, p)
	})
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"math/rand/v2"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/test/model"
)

// The first sequence numbers of the two sides of every flow.
const (
	clientStart  = 0x10000
	backendStart = 0xfffffff0 // wraps soon
	clientTag    = 0x1111
)

// frame makes a packet of a flow, between two addresses, with a known rewrite. It does not use
// gopacket, which would take longer than everything else.
func (p packetOf) frame(proto uint8, t model.Tuple, rewritten *model.Tuple, to *device) []byte {
	payload := make([]byte, p.Size)
	if p.Content != 0 {
		r := rand.New(rand.NewPCG(p.Content, 1))
		for i := range payload {
			payload[i] = byte(r.Uint32())
		}
	}
	if p.Way == different {
		proto = map[uint8]uint8{model.TCP: model.UDP, model.UDP: model.TCP, model.SCTP: model.TCP}[proto]
	}
	if _, ok := p.has("zero-sum"); ok && proto == model.UDP && rewritten != nil && p.Size >= 2 {
		payload[0], payload[1] = 0, 0
		copy(payload, p.transport(proto, *rewritten, payload)[6:8])
	}
	message := p.transport(proto, t, payload)
	var ipHeader []byte
	if p.Parts > 0 {
		message, ipHeader = p.fragment(proto, t, message)
	} else {
		ipHeader = p.ip(proto, t, len(message), 0)
	}
	if p.Error > 0 {
		ipHeader, message = p.errorAbout(t, append(ipHeader, message...), len(ipHeader))
	}
	f := frame{proto: proto, l3: 14, l4: 14 + len(ipHeader)}
	if p.Error > 0 {
		f.proto = 0
	}
	f.bytes = append(f.bytes, to.mac()...)
	f.bytes = append(f.bytes, otherGuest...)
	f.bytes = binary.BigEndian.AppendUint16(f.bytes, map[bool]uint16{false: 0x0800, true: 0x86dd}[t.Src.Addr().Is6()])
	f.bytes = append(append(f.bytes, ipHeader...), message...)
	for _, w := range p.Wrong {
		f.spoil(w)
	}
	return f.bytes
}

func (p packetOf) has(what string) (int, bool) {
	for _, w := range p.Wrong {
		if w.What == what {
			return w.N, true
		}
	}
	return 0, false
}

func (p packetOf) transport(proto uint8, t model.Tuple, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, t.Src.Port())
	b = binary.BigEndian.AppendUint16(b, t.Dst.Port())
	switch proto {
	case model.TCP:
		b = append(p.tcp(b), payload...)
		sumInto(b, 16, t, proto)
	case model.UDP:
		b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
		b = append(append(b, 0, 0), payload...)
		sumInto(b, 6, t, proto)
		if b[6] == 0 && b[7] == 0 {
			b[6], b[7] = 0xff, 0xff
		}
	case model.SCTP:
		b = append(p.sctp(b), payload...)
		binary.LittleEndian.PutUint32(b[8:], model.SCTPChecksum(b))
	}
	return b
}

func (p packetOf) tcp(b []byte) []byte {
	seq, ack := uint32(clientStart), uint32(backendStart)
	if p.Way == reply {
		seq, ack = ack, seq
	}
	if p.Flags&model.Syn == 0 {
		seq++
	}
	if p.Flags&model.Ack == 0 {
		ack = 0
	} else {
		ack++
	}
	options, _ := p.has("tcp-options")
	b = binary.BigEndian.AppendUint32(b, seq+uint32(p.Seq))
	b = binary.BigEndian.AppendUint32(b, ack+uint32(p.Ack))
	b = append(b, byte(5+options)<<4, p.Flags, 0x10, 0xe1, 0, 0, 0, 0)
	for range options {
		b = append(b, 1, 1, 1, 1)
	}
	return b
}

func (p packetOf) sctp(b []byte) []byte {
	start := uint32(backendStart)
	tag, asked := start, uint32(clientTag)
	if p.Way == reply {
		tag, asked = asked, tag
	}
	if p.Flags == 1 {
		tag = 0
	}
	b = binary.BigEndian.AppendUint32(b, tag+uint32(p.Ack))
	length := 20
	if p.Parts > 0 {
		length = 8 + p.Size
	}
	b = append(b, 0, 0, 0, 0, p.Flags, 0, byte(length>>8), byte(length))
	return binary.BigEndian.AppendUint32(b, asked+uint32(p.Seq))
}

func sumInto(b []byte, at int, t model.Tuple, proto uint8) {
	pseudo := model.PseudoHeader(t.Src.Addr(), t.Dst.Addr(), proto, len(b))
	binary.BigEndian.PutUint16(b[at:], model.Checksum(pseudo, b))
}

func (p packetOf) ip(proto uint8, t model.Tuple, size int, place uint16) []byte {
	if t.Src.Addr().Is6() {
		b := binary.BigEndian.AppendUint32(nil, 6<<28|uint32(p.TOS)<<20|0xabcde)
		b = binary.BigEndian.AppendUint16(b, uint16(size))
		b = append(b, proto, p.TTL)
		return append(append(b, t.Src.Addr().AsSlice()...), t.Dst.Addr().AsSlice()...)
	}
	options, _ := p.has("ip-options")
	header := 20 + 4*options
	b := []byte{0x40 | byte(header/4), p.TOS}
	b = binary.BigEndian.AppendUint16(b, uint16(header+size))
	b = binary.BigEndian.AppendUint16(b, p.ID)
	b = binary.BigEndian.AppendUint16(b, place)
	b = append(b, p.TTL, proto, 0, 0)
	b = append(append(b, t.Src.Addr().AsSlice()...), t.Dst.Addr().AsSlice()...)
	for range options {
		b = append(b, 1, 1, 1, 1)
	}
	binary.BigEndian.PutUint16(b[10:], model.Checksum(b))
	return b
}

// fragment returns one part of a message, and the IP header before it.
func (p packetOf) fragment(proto uint8, t model.Tuple, message []byte) (part, header []byte) {
	size := (len(message)/p.Parts + 7) &^ 7
	start, end := min(p.Part*size, len(message)), min((p.Part+1)*size, len(message))
	more := uint16(0)
	if p.Part < p.Parts-1 {
		more = 1
	}
	part = message[start:end]
	if !t.Src.Addr().Is6() {
		return part, p.ip(proto, t, len(part), more<<13|uint16(start/8))
	}
	extension := []byte{proto, 0}
	extension = binary.BigEndian.AppendUint16(extension, uint16(start)|more)
	extension = append(extension, 0, 0, byte(p.ID>>8), byte(p.ID))
	return append(extension, part...), p.ip(44, t, len(part)+8, 0)
}

// errorAbout makes an ICMP message about a packet, to the sender of that packet.
func (p packetOf) errorAbout(t model.Tuple, about []byte, header int) (ip, message []byte) {
	v6 := t.Src.Addr().Is6()
	proto, from := uint8(model.ICMP), t.Dst.Addr()
	if p.Router {
		from = planOf(t.Src.Addr()).router
	}
	message = []byte{byte((p.Error - 1) >> 8), byte(p.Error - 1), 0, 0, 0, 0, 5, 20}
	message = append(message, about[:min(len(about), header+p.Quote)]...)
	back := model.Tuple{Src: at(from, 0), Dst: at(t.Src.Addr(), 0)}
	if p.isEcho() {
		back.Src, back.Dst = t.Src, t.Dst
	}
	var pseudo []byte
	if v6 {
		proto = model.ICMPv6
		pseudo = model.PseudoHeader(back.Src.Addr(), back.Dst.Addr(), proto, len(message))
	}
	binary.BigEndian.PutUint16(message[2:], model.Checksum(pseudo, message))
	return p.ip(proto, back, len(message), 0), message
}

// isEcho reports whether the message is a ping, which is about no packet.
func (p packetOf) isEcho() bool { return p.Error-1 == 8<<8 || p.Error-1 == 128<<8 }

// frame is a frame that can be corrupted.
type frame struct {
	bytes  []byte
	proto  uint8
	l3, l4 int
}

func (f *frame) add(at, n int) {
	if at+2 <= len(f.bytes) {
		b := f.bytes[at:]
		binary.BigEndian.PutUint16(b, binary.BigEndian.Uint16(b)+uint16(n))
	}
}

func (f *frame) is4() bool { return len(f.bytes) > f.l3 && f.bytes[f.l3]>>4 == 4 }

// checksumAt is the offset of the transport checksum; 0: there is none.
func (f *frame) checksumAt() int {
	at := map[uint8]int{model.TCP: 16, model.UDP: 6, model.SCTP: 8}[f.proto]
	if at == 0 || f.l4+at+4 > len(f.bytes) {
		return 0
	}
	return f.l4 + at
}

func (f *frame) spoil(w wrong) {
	switch w.What {
	case "vlan":
		tag := []byte{byte(w.N >> 8), byte(w.N), 0, 7}
		f.bytes = append(append(append([]byte(nil), f.bytes[:12]...), tag...), f.bytes[12:]...)
		f.l3, f.l4 = f.l3+4, f.l4+4
	case "extension":
		if !f.is4() && len(f.bytes) >= f.l4 && f.l4 == f.l3+40 {
			header := []byte{f.bytes[f.l3+6], 0, 1, 4, 0, 0, 0, 0}
			f.bytes[f.l3+6] = byte(w.N)
			f.bytes = append(append(append([]byte(nil), f.bytes[:f.l4]...), header...), f.bytes[f.l4:]...)
			f.add(f.l3+4, len(header))
			f.l4, f.proto = f.l4+len(header), 0
		}
	case "cut":
		f.bytes = f.bytes[:min(len(f.bytes), max(f.l3, f.l3+w.N))]
	case "length":
		if f.is4() {
			f.setLength(2, w.N)
			f.fixHeader()
		} else {
			f.setLength(4, w.N)
		}
	case "ip-checksum":
		if f.is4() {
			f.add(f.l3+10, w.N)
		}
	case "checksum":
		if at := f.checksumAt(); at > 0 {
			f.add(at, w.N)
		}
	case "no-checksum":
		if at := f.checksumAt(); at > 0 && f.proto != model.TCP {
			clear(f.bytes[at : at+2])
			if f.proto == model.SCTP {
				clear(f.bytes[at : at+4])
			}
		}
	case "mac":
		f.bytes[0], f.bytes[5] = byte(w.N), 0x77
	case "protocol":
		if f.is4() && len(f.bytes) >= f.l3+20 {
			f.bytes[f.l3+9] = byte(w.N)
			f.fixHeader()
		} else if len(f.bytes) >= f.l3+40 {
			f.bytes[f.l3+6] = byte(w.N)
		}
		f.proto = 0
	case "version":
		if f.l3 < len(f.bytes) {
			f.bytes[f.l3] = byte(w.N)
		}
	case "padding":
		f.bytes = append(f.bytes, make([]byte, w.N)...)
	case "byte":
		if i := 12 + w.N>>8; i < len(f.bytes) {
			f.bytes[i] ^= byte(w.N)
		}
	}
}

// setLength writes another length into the IP header, up to the largest.
func (f *frame) setLength(at, n int) {
	if f.l3+at+2 > len(f.bytes) {
		return
	}
	b := f.bytes[f.l3+at:]
	binary.BigEndian.PutUint16(b, uint16(max(0, int(binary.BigEndian.Uint16(b))+n)))
}

func (f *frame) fixHeader() {
	if f.l4 > len(f.bytes) {
		return
	}
	header := f.bytes[f.l3:f.l4]
	clear(header[10:12])
	binary.BigEndian.PutUint16(header[10:], model.Checksum(header))
}

// tupleOf is the tuple of a flow's packet, as far as the node knows it by now.
func (r *fuzzRun) tupleOf(p packetOf) model.Tuple {
	f := r.script.Flows[p.Flow]
	t := model.Tuple{Src: f.Client, Dst: f.To, Proto: f.Proto}
	to, known := r.rewrites[p.Flow]
	if f.From == pod0.name {
		t.Zone = bpf.ZonePod
	}
	if rec := r.find(t); rec != nil {
		to, known = rewrite{rec.Src, rec.Dst}, true
		r.rewrites[p.Flow] = to
	}
	if !known { // invented: the node does not know it
		plan := planOf(f.Client.Addr())
		to = rewrite{at(plan.front, snatMin), at(plan.far, 8080)}
	}
	switch p.Way {
	case reply:
		t.Src, t.Dst = to.dst, to.src
	case between:
		t.Src, t.Dst = at(f.Client.Addr(), to.src.Port()), to.dst
	case direct:
		t.Dst = to.dst
	case arriving:
		t.Src, t.Dst = to.src, to.dst
	case arrived:
		t.Src, t.Dst = f.To, f.Client
	}
	return t
}

// find looks for a record in a tuple's zone, and then in all zones.
func (r *fuzzRun) find(t model.Tuple) *model.Record {
	for _, zone := range []bpf.Zone{t.Zone, bpf.ZoneOutside, bpf.ZonePod, bpf.ZoneLeaving} {
		t.Zone = zone
		if rec := r.model.Find(t); rec != nil {
			return rec
		}
	}
	return nil
}

// rewrite is the last rewrite of a flow's packets.
type rewrite struct{ src, dst netip.AddrPort }

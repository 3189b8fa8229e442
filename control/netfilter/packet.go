// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// Packet is what is known of a packet. The zero value of a field: any.
type Packet struct {
	IPv6     bool
	Src, Dst netip.Addr
	Proto    uint8
	DstPort  uint16
	In, Out  string // devices
	Reply    bool   // of a connection that the kernel knows; else the packet is its first
}

// value is the content of a register of nf_tables; nil: not known.
type value []byte

// part returns bytes of a header, or nil unless all of them are known.
func part(header []byte, known []bool, offset, length uint32) value {
	end := offset + length
	if uint64(offset)+uint64(length) > uint64(len(header)) {
		return nil
	}
	for _, k := range known[offset:end] {
		if !k {
			return nil
		}
	}
	return header[offset:end]
}

// put writes known bytes into a header.
func put(header []byte, known []bool, offset int, data []byte) {
	copy(header[offset:], data)
	for i := range data {
		known[offset+i] = true
	}
}

// network returns a part of the IP header.
func (p *Packet) network(offset, length uint32) value {
	protoAt, srcAt, dstAt, size := 9, 12, 16, 20
	if p.IPv6 {
		protoAt, srcAt, dstAt, size = 6, 8, 24, 40
	}
	header, known := make([]byte, size), make([]bool, size)
	if p.Proto != 0 {
		put(header, known, protoAt, []byte{p.Proto})
	}
	if p.Src.IsValid() {
		put(header, known, srcAt, p.Src.AsSlice())
	}
	if p.Dst.IsValid() {
		put(header, known, dstAt, p.Dst.AsSlice())
	}
	return part(header, known, offset, length)
}

// transport returns a part of the transport header.
func (p *Packet) transport(offset, length uint32) value {
	header, known := make([]byte, 4), make([]bool, 4)
	if p.DstPort != 0 {
		put(header, known, 2, binary.BigEndian.AppendUint16(nil, p.DstPort))
	}
	return part(header, known, offset, length)
}

// device returns a device's name in the form that the kernel compares.
func device(name string) value {
	if name == "" {
		return nil
	}
	return append([]byte(name), bytes.Repeat([]byte{0}, unix.IFNAMSIZ-len(name))...)
}

func (p *Packet) family() byte {
	if p.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// The bits of `ct state`, and of xt_conntrack.
const (
	stateEstablished = 1 << 1
	stateNew         = 1 << 3
)

func (p *Packet) state() uint32 {
	if p.Reply {
		return stateEstablished
	}
	return stateNew
}

// truth is whether a condition holds.
type truth int

const (
	no truth = iota
	maybe
	yes
)

func truthOf(b bool) truth {
	if b {
		return yes
	}
	return no
}

func (t truth) not() truth { return yes - t }

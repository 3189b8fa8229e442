// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attributes that package nl does not name.
const (
	ctaNATSrc     = 6
	ctaNATDst     = 13
	ctaStatusMask = 26

	ctaNATV4MinIP      = 1
	ctaNATV4MaxIP      = 2
	ctaNATProto        = 3
	ctaNATV6MinIP      = 4
	ctaNATV6MaxIP      = 5
	ctaProtoNATPortMin = 1
	ctaProtoNATPortMax = 2

	ctaSCTPState = 1
)

const (
	attrHeader = 4
	attrType   = 1<<14 - 1 // without the flags
)

var errShort = errors.New("a message of ctnetlink ends too early")

// eachAttribute calls fn with the type and the value of each attribute in b.
func eachAttribute(b []byte, fn func(typ uint16, value []byte) error) error {
	for len(b) > 0 {
		if len(b) < attrHeader {
			return errShort
		}
		size := int(binary.NativeEndian.Uint16(b))
		if size < attrHeader || size > len(b) {
			return errShort
		}
		if err := fn(binary.NativeEndian.Uint16(b[2:])&attrType, b[attrHeader:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// decode decodes what follows a netlink header: the family, then the attributes.
func decode(body []byte) (Entry, error) {
	var e Entry
	if len(body) < nl.SizeofNfgenmsg {
		return e, errShort
	}
	err := eachAttribute(body[nl.SizeofNfgenmsg:], func(typ uint16, value []byte) (err error) {
		switch typ {
		case nl.CTA_TUPLE_ORIG:
			e.Orig, e.Proto, err = decodeTuple(value)
		case nl.CTA_TUPLE_REPLY:
			e.Reply, _, err = decodeTuple(value)
		case nl.CTA_PROTOINFO:
			e.State, err = decodeState(value)
		case nl.CTA_STATUS:
			err = decodeWord(value, &e.Status)
		case nl.CTA_MARK:
			err = decodeWord(value, &e.Mark)
		case nl.CTA_TIMEOUT:
			var seconds uint32
			err = decodeWord(value, &seconds)
			e.Timeout = time.Duration(seconds) * time.Second
		case nl.CTA_ZONE:
			if len(value) < 2 {
				return errShort
			}
			e.Zone = binary.BigEndian.Uint16(value)
		}
		return err
	})
	return e, err
}

func decodeWord(value []byte, word *uint32) error {
	if len(value) < 4 {
		return errShort
	}
	*word = binary.BigEndian.Uint32(value)
	return nil
}

// decodeTuple leaves out ports that a protocol does not have.
func decodeTuple(b []byte) (t Tuple, proto uint8, err error) {
	var src, dst netip.Addr
	var sport, dport uint16
	err = eachAttribute(b, func(part uint16, value []byte) error {
		return eachAttribute(value, func(typ uint16, value []byte) error {
			switch {
			case part == nl.CTA_TUPLE_IP && (typ == nl.CTA_IP_V4_SRC || typ == nl.CTA_IP_V6_SRC):
				src, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_IP && (typ == nl.CTA_IP_V4_DST || typ == nl.CTA_IP_V6_DST):
				dst, _ = netip.AddrFromSlice(value)
			case part == nl.CTA_TUPLE_PROTO && typ == nl.CTA_PROTO_NUM && len(value) > 0:
				proto = value[0]
			case part == nl.CTA_TUPLE_PROTO && typ == nl.CTA_PROTO_SRC_PORT && len(value) >= 2:
				sport = binary.BigEndian.Uint16(value)
			case part == nl.CTA_TUPLE_PROTO && typ == nl.CTA_PROTO_DST_PORT && len(value) >= 2:
				dport = binary.BigEndian.Uint16(value)
			}
			return nil
		})
	})
	if err == nil && (!src.IsValid() || !dst.IsValid()) {
		err = fmt.Errorf("a tuple of ctnetlink has no valid addresses: %x", b)
	}
	return Tuple{Src: netip.AddrPortFrom(src, sport), Dst: netip.AddrPortFrom(dst, dport)}, proto, err
}

func decodeState(b []byte) (state uint8, err error) {
	err = eachAttribute(b, func(proto uint16, value []byte) error {
		return eachAttribute(value, func(typ uint16, value []byte) error {
			if len(value) > 0 && (proto == nl.CTA_PROTOINFO_TCP && typ == nl.CTA_PROTOINFO_TCP_STATE ||
				proto == nl.CTA_PROTOINFO_SCTP && typ == ctaSCTPState) {
				state = value[0]
			}
			return nil
		})
	})
	return state, err
}

// message is a request: a netlink header, then the family, then attributes.
type message []byte

func newMessage(buf []byte, operation, flags uint16, family uint8) message {
	m := append(message(buf[:0]), make([]byte, unix.NLMSG_HDRLEN)...)
	binary.NativeEndian.PutUint16(m[4:], unix.NFNL_SUBSYS_CTNETLINK<<8|operation)
	binary.NativeEndian.PutUint16(m[6:], unix.NLM_F_REQUEST|flags)
	return append(m, family, nl.NFNETLINK_V0, 0, 0)
}

// finish completes the header.
func (m message) finish(seq uint32) []byte {
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint32(m[8:], seq)
	return m
}

func (m *message) attr(typ uint16, value ...byte) {
	*m = binary.NativeEndian.AppendUint16(*m, uint16(attrHeader+len(value)))
	*m = binary.NativeEndian.AppendUint16(*m, typ)
	*m = append(*m, value...)
	for len(*m)%4 != 0 {
		*m = append(*m, 0)
	}
}

// nest writes an attribute that holds others.
func (m *message) nest(typ uint16, inner func()) {
	start := len(*m)
	m.attr(typ | unix.NLA_F_NESTED)
	inner()
	binary.NativeEndian.PutUint16((*m)[start:], uint16(len(*m)-start))
}

func (m *message) word(typ uint16, word uint32) { m.attr(typ, be32(word)...) }

func be16(v uint16) []byte { return binary.BigEndian.AppendUint16(nil, v) }
func be32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

func (m *message) tuple(typ uint16, t Tuple, proto uint8) {
	src, dst := uint16(nl.CTA_IP_V4_SRC), uint16(nl.CTA_IP_V4_DST)
	if t.Src.Addr().Is6() {
		src, dst = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	m.nest(typ, func() {
		m.nest(nl.CTA_TUPLE_IP, func() {
			m.attr(src, t.Src.Addr().AsSlice()...)
			m.attr(dst, t.Dst.Addr().AsSlice()...)
		})
		m.nest(nl.CTA_TUPLE_PROTO, func() {
			m.attr(nl.CTA_PROTO_NUM, proto)
			m.attr(nl.CTA_PROTO_SRC_PORT, be16(t.Src.Port())...)
			m.attr(nl.CTA_PROTO_DST_PORT, be16(t.Dst.Port())...)
		})
	})
}

// nat requests a translation to exactly this address and port.
func (m *message) nat(typ uint16, to netip.AddrPort) {
	first, last := uint16(ctaNATV4MinIP), uint16(ctaNATV4MaxIP)
	if to.Addr().Is6() {
		first, last = ctaNATV6MinIP, ctaNATV6MaxIP
	}
	m.nest(typ, func() {
		m.attr(first, to.Addr().AsSlice()...)
		m.attr(last, to.Addr().AsSlice()...)
		m.nest(ctaNATProto, func() {
			m.attr(ctaProtoNATPortMin, be16(to.Port())...)
			m.attr(ctaProtoNATPortMax, be16(to.Port())...)
		})
	})
}

func familyOf(a netip.Addr) uint8 {
	if a.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

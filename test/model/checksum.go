// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"hash/crc32"
	"net/netip"
)

// sum is the one's complement sum of RFC 1071, of 16-bit words in network byte order.
func sum(parts ...[]byte) uint16 {
	var s uint64
	for _, b := range parts {
		for ; len(b) >= 2; b = b[2:] {
			s += uint64(binary.BigEndian.Uint16(b))
		}
		if len(b) == 1 {
			s += uint64(b[0]) << 8
		}
	}
	for s > 0xffff {
		s = s&0xffff + s>>16
	}
	return uint16(s)
}

func addSums(a, b uint16) uint16 {
	s := uint32(a) + uint32(b)
	return uint16(s&0xffff + s>>16)
}

// Checksum returns the checksum of some bytes that have zeros in the checksum's place.
func Checksum(parts ...[]byte) uint16 { return ^sum(parts...) }

// PseudoHeader returns the part of the IP header that counts in a transport checksum (RFC 9293,
// 3.1; RFC 8200, 8.1).
func PseudoHeader(src, dst netip.Addr, proto uint8, length int) []byte {
	b := append(src.AsSlice(), dst.AsSlice()...)
	b = binary.BigEndian.AppendUint32(b, uint32(length))
	return append(b, 0, 0, 0, proto)
}

// carry returns the checksum of a message that was changed: the right one if it was right before,
// and one that is wrong by as much if it was wrong. Of the two zeros it returns the one that the
// complement of a sum gives.
func carry(found, rightBefore, rightAfter uint16) uint16 {
	if sameSum(found, rightBefore) {
		return rightAfter
	}
	wrong := addSums(found, ^rightBefore)
	if check := addSums(rightAfter, wrong); check != 0xffff {
		return check
	}
	return 0
}

// sameSum compares one's complement sums, where there are two zeros.
func sameSum(a, b uint16) bool { return a == b || a^b == 0xffff && (a == 0 || b == 0) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// SCTPChecksum returns the checksum of RFC 9260, appendix A, for a packet. It takes the checksum
// field as zeros.
func SCTPChecksum(message []byte) uint32 {
	b := append([]byte(nil), message...)
	clear(b[8:12])
	return crc32.Checksum(b, castagnoli)
}

// SPDX-License-Identifier: Apache-2.0

package manifest

import (
	"crypto/sha256"
	"encoding/binary"
	"net/netip"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// maxProbe limits how much of a range is searched: a /64 is too large.
const maxProbe = 1 << 24

// band is the lower part of a range. It is reserved for addresses and ports that users choose
// themselves, as long as the rest is not used up (KEP-3070 and KEP-3668).
type band struct {
	least, most, step uint64
}

var (
	addressBand = band{least: 16, most: 256, step: 16}
	portBand    = band{least: 16, most: 128, step: 32}
)

func (b band) of(size uint64) uint64 {
	if size <= b.least {
		return 0
	}
	return min(max(b.least, size/b.step), b.most)
}

// probe tries the offsets of a range: first those above the band, from a place that the name
// determines, then those in the band. It ends at the first for which free returns true.
func probe(name string, size, band uint64, free func(offset uint64) bool) (uint64, bool) {
	sum := sha256.Sum256([]byte(name))
	hash := binary.BigEndian.Uint64(sum[:])
	for _, part := range []struct{ first, size uint64 }{{band, size - band}, {0, band}} {
		for i := range part.size {
			offset := part.first + (hash%part.size+i)%part.size
			if free(offset) {
				return offset, true
			}
		}
	}
	return 0, false
}

// chooseAddr picks the address of a name in a range.
func chooseAddr(name string, p netip.Prefix, free func(netip.Addr) bool) (netip.Addr, bool) {
	size := uint64(maxProbe)
	if bits := hostBits(p); bits < 24 {
		size = 1 << bits
	}
	offset, ok := probe(name, size, addressBand.of(size), func(offset uint64) bool {
		a := plus(p.Addr(), offset)
		return !reserved(p, a) && free(a)
	})
	return plus(p.Addr(), offset), ok
}

// plus adds an offset of less than 32 bits to an address of a range that is aligned to it.
func plus(a netip.Addr, offset uint64) netip.Addr {
	raw := a.AsSlice()
	low := raw[len(raw)-4:]
	binary.BigEndian.PutUint32(low, binary.BigEndian.Uint32(low)+uint32(offset))
	sum, _ := netip.AddrFromSlice(raw)
	return sum
}

// choosePort picks the node port of a name.
func choosePort(name string, r utilnet.PortRange, free func(int32) bool) (int32, bool) {
	size := uint64(r.Size)
	offset, ok := probe(name, size, portBand.of(size), func(offset uint64) bool {
		return free(int32(r.Base) + int32(offset))
	})
	return int32(r.Base) + int32(offset), ok
}

// SPDX-License-Identifier: Apache-2.0

package pools

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"net/netip"
)

// addresses are those from first to last, both of one family.
type addresses struct {
	first, last netip.Addr
	// reserveEnds: of a network, neither the first nor the last is given. Where there are but two, both are.
	reserveEnds bool
	field       string // of the document that gives them
}

func network(p netip.Prefix) (addresses, error) {
	if p.Addr().Is4In6() || p.Addr().Zone() != "" {
		return addresses{}, errors.New("write IPv4 addresses as such, and no zones")
	}
	p = p.Masked()
	return addresses{first: p.Addr(), last: lastOf(p)}, nil
}

func span(first, last string) (addresses, error) {
	a, err := parseAddr(first)
	if err != nil {
		return addresses{}, err
	}
	z, err := parseAddr(last)
	if err != nil {
		return addresses{}, err
	}
	switch {
	case a.BitLen() != z.BitLen():
		return addresses{}, fmt.Errorf("%s and %s are of different families", a, z)
	case z.Less(a):
		return addresses{}, fmt.Errorf("%s comes after %s", a, z)
	}
	return addresses{first: a, last: z}, nil
}

func parseAddr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || a.Is4In6() || a.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address", s)
	}
	return a, nil
}

func lastOf(p netip.Prefix) netip.Addr {
	raw := p.Addr().AsSlice()
	for bit := p.Bits(); bit < len(raw)*8; bit++ {
		raw[bit/8] |= 1 << (7 - bit%8)
	}
	last, _ := netip.AddrFromSlice(raw)
	return last
}

func (r addresses) contains(a netip.Addr) bool {
	return a.BitLen() == r.first.BitLen() && !a.Less(r.first) && !r.last.Less(a)
}

func (r addresses) overlaps(other addresses) bool {
	return r.first.BitLen() == other.first.BitLen() && !r.last.Less(other.first) && !other.last.Less(r.first)
}

// reserves reports whether an address of the range is never given.
func (r addresses) reserves(a netip.Addr) bool {
	return r.reserveEnds && r.size() > 2 && (a == r.first || a == r.last)
}

// size is the number of addresses, or the largest there can be.
func (r addresses) size() uint64 {
	h1, l1 := halves(r.first)
	h2, l2 := halves(r.last)
	low, borrow := bits.Sub64(l2, l1, 0)
	high, _ := bits.Sub64(h2, h1, borrow)
	if high != 0 || low == math.MaxUint64 {
		return math.MaxUint64
	}
	return low + 1
}

// at is the address at an offset, which must be below the size.
func (r addresses) at(offset uint64) netip.Addr {
	high, low := halves(r.first)
	low, carry := bits.Add64(low, offset, 0)
	high += carry
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], high)
	binary.BigEndian.PutUint64(raw[8:], low)
	a := netip.AddrFrom16(raw)
	if r.first.Is4() {
		return a.Unmap()
	}
	return a
}

// halves are an address as a number of 128 bits.
func halves(a netip.Addr) (high, low uint64) {
	raw := a.As16()
	return binary.BigEndian.Uint64(raw[:8]), binary.BigEndian.Uint64(raw[8:])
}

func (r addresses) String() string {
	if r.first == r.last {
		return r.first.String()
	}
	return r.first.String() + "-" + r.last.String()
}

// isBuggy: some old equipment blocks IPv4 addresses that end in .0 or .255 (avoidBuggyIPs).
func isBuggy(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	last := a.As4()[3]
	return last == 0 || last == 255
}

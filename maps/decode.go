// SPDX-License-Identifier: Apache-2.0

package maps

import (
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// These functions decode what the programs leave outside of the maps, as explain's twin does.

// DecodeTuple decodes a tuple in the programs' form.
func DecodeTuple(f Family, t bpf.Tuple) Tuple {
	addr := func(w [4]uint32) netip.Addr { return DecodeAddr(f, w) }
	return Tuple{
		Src:   netip.AddrPortFrom(addr(t.Saddr.Word), netPort(t.Sport)),
		Dst:   netip.AddrPortFrom(addr(t.Daddr.Word), netPort(t.Dport)),
		Proto: t.Proto, Zone: bpf.Zone(t.Zone),
	}
}

// DecodeAddr decodes an address in the programs' form: IPv4 in the first four bytes.
func DecodeAddr(f Family, w [4]uint32) netip.Addr {
	if f == IPv4 {
		return addr4(w[0])
	}
	return addr6(w)
}

// EncodeAddr is the inverse of DecodeAddr.
func EncodeAddr(a netip.Addr) [4]uint32 { return wordsOf(a) }

// NetPort converts a port from host to network byte order, or back.
func NetPort(p uint16) uint16 { return netPort(p) }

// DecodeService decodes a frontend's element in the programs' form.
func DecodeService(c bpf.Service) Service { return decodeService(&c) }

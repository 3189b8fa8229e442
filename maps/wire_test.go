// SPDX-License-Identifier: Apache-2.0

package maps_test

import "encoding/binary"

// These types are what the datapath stores, made from bytes in the order of the wire.

func wire16(v uint16) uint16 {
	return binary.NativeEndian.Uint16(binary.BigEndian.AppendUint16(nil, v))
}

func wire32(b ...byte) uint32 { return binary.NativeEndian.Uint32(b) }

func words(address string) (w [4]uint32) {
	raw := addr(address).As16()
	for i := range w {
		w[i] = wire32(raw[4*i : 4*i+4]...)
	}
	return w
}

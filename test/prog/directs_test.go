// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"encoding/binary"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// directs is the cache of datagrams that were for no service. It is read and written in place, while no program runs.
type directs struct{ memory *ebpf.Memory }

// A slot's size, and where its time is.
const (
	directSize = int(unsafe.Sizeof(bpf.Direct{}))
	directSeen = int(unsafe.Offsetof(bpf.Direct{}.Seen))
)

func (d directs) contents() []byte {
	b := make([]byte, d.memory.Size())
	_, err := d.memory.ReadAt(b, 0)
	must(err)
	return b
}

// used returns the offsets of the slots that are in use.
func (d directs) used() (offsets []int) {
	b := d.contents()
	for at := 0; at < len(b); at += directSize {
		if binary.NativeEndian.Uint64(b[at:]) != 0 {
			offsets = append(offsets, at)
		}
	}
	return offsets
}

func (d directs) empty() {
	_, err := d.memory.WriteAt(make([]byte, d.memory.Size()), 0)
	must(err)
}

// change replaces all times, and returns how many there are.
func (d directs) change(time func(then uint32) uint32) int {
	b, used := d.contents(), d.used()
	for _, at := range used {
		then := b[at+directSeen:]
		binary.NativeEndian.PutUint32(then, time(binary.NativeEndian.Uint32(then)))
	}
	_, err := d.memory.WriteAt(b, 0)
	must(err)
	return len(used)
}

// age moves all times back.
func (d directs) age(seconds int) {
	d.change(func(then uint32) uint32 { return older(then, seconds) })
}

// ageDirects makes all that is noted so much older.
func (c *conversation) ageDirects(jiffies uint32) {
	c.t.Helper()
	if c.directs.change(func(then uint32) uint32 { return then - jiffies }) == 0 {
		c.t.Fatal("no direct datagram is noted")
	}
}

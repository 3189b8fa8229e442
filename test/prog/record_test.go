// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// The two tables that a record may stand in.
const (
	pending   = "flows_new"
	confirmed = "flows"
)

// tuple is a key of both.
type tuple struct {
	src, dst netip.AddrPort
	proto    layers.IPProtocol
	egress   bool
}

// record is what is found under it.
type record struct {
	bpf.Flow
	src, dst netip.AddrPort
}

func (k tuple) bytes() []byte {
	b := append(k.src.Addr().AsSlice(), k.dst.Addr().AsSlice()...)
	b = binary.BigEndian.AppendUint16(b, k.src.Port())
	b = binary.BigEndian.AppendUint16(b, k.dst.Port())
	egress := byte(0)
	if k.egress {
		egress = 1
	}
	return append(b, byte(k.proto), egress, 0, 0)
}

func (r record) bytes() []byte {
	var b bytes.Buffer
	must(binary.Write(&b, binary.NativeEndian, r.Flow))
	b.Write(r.src.Addr().AsSlice())
	b.Write(r.dst.Addr().AsSlice())
	return b.Bytes()
}

func readRecord(value []byte) (r record) {
	reader := bytes.NewReader(value)
	must(binary.Read(reader, binary.NativeEndian, &r.Flow))
	rest := value[len(value)-reader.Len():]
	src, _ := netip.AddrFromSlice(rest[:len(rest)/2])
	dst, _ := netip.AddrFromSlice(rest[len(rest)/2:])
	r.src, r.dst = at(src, netPort(r.Sport)), at(dst, netPort(r.Dport))
	return r
}

func (n *node) table(name string, k tuple) recordTable { return n.tables[family(name, k.src.Addr())] }

func (n *node) lookup(table string, k tuple) (record, bool) {
	n.t.Helper()
	value, err := n.table(table, k).lookup(k.bytes())
	if err != nil {
		n.t.Fatal(err)
	}
	if value == nil {
		return record{}, false
	}
	return readRecord(value), true
}

// get is for a record that must be there.
func (n *node) get(table string, k tuple) record {
	n.t.Helper()
	r, ok := n.lookup(table, k)
	if !ok {
		n.t.Fatalf("%s holds no %v", table, k)
	}
	return r
}

// alter changes a record in place.
func (n *node) alter(table string, k tuple, change func(*record)) {
	n.t.Helper()
	r := n.get(table, k)
	change(&r)
	if err := n.table(table, k).replace(k.bytes(), r.bytes()); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) remove(table string, k tuple) {
	n.t.Helper()
	if err := n.table(table, k).remove(k.bytes()); err != nil {
		n.t.Fatal(err)
	}
}

// size is how many records a table holds.
func (n *node) size(table string, v variant) int {
	n.t.Helper()
	keys, _, err := n.tables[family(table, v.client)].contents()
	if err != nil {
		n.t.Fatal(err)
	}
	return len(keys)
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/bpf"
)

// tuple is a key of the flow table.
type tuple struct {
	src, dst netip.AddrPort
	proto    layers.IPProtocol
	zone     bpf.Zone
}

func (k tuple) String() string {
	return fmt.Sprintf("%s>%s/%d %s", k.src, k.dst, k.proto, bpf.ZoneName(k.zone))
}

// record is the value of a key.
type record struct {
	bpf.Flow
	key      tuple
	src, dst netip.AddrPort // the rewrite of its packets
	tag      uint32
}

func (r record) state() uint32 { return r.tag & bpf.StateMask }

func (r record) isConfirmed() bool { return r.tag&bpf.StateConfirmed != 0 }

// decodeRecord decodes a way of a set.
func decodeRecord(tag uint32, b []byte) record {
	if len(b) == record4Size {
		var f bpf.Flow4
		must(binary.Read(bytes.NewReader(b), binary.NativeEndian, &f))
		return newRecord(tag, f.Flow, hostOf(f.Saddr), hostOf(f.Daddr), hostOf(f.ToSaddr), hostOf(f.ToDaddr))
	}
	var f bpf.Flow6
	must(binary.Read(bytes.NewReader(b), binary.NativeEndian, &f))
	return newRecord(tag, f.Flow, hostOf(f.Saddr[:]...), hostOf(f.Daddr[:]...), hostOf(f.ToSaddr[:]...), hostOf(f.ToDaddr[:]...))
}

// hostOf returns an address of one word or of four.
func hostOf(words ...uint32) netip.Addr {
	var b []byte
	for _, w := range words {
		b = binary.NativeEndian.AppendUint32(b, w)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

func newRecord(tag uint32, f bpf.Flow, src, dst, toSrc, toDst netip.Addr) record {
	return record{
		Flow: f, tag: tag,
		key: tuple{
			src: at(src, netPort(f.Sport)), dst: at(dst, netPort(f.Dport)),
			proto: layers.IPProtocol(f.Proto), zone: bpf.Zone(f.Zone),
		},
		src: at(toSrc, netPort(f.ToSport)), dst: at(toDst, netPort(f.ToDport)),
	}
}

// encode is the inverse of decodeRecord.
func (r record) encode() []byte {
	f, k := r.Flow, r.key
	f.Sport, f.Dport, f.Proto, f.Zone = netPort(k.src.Port()), netPort(k.dst.Port()), uint8(k.proto), uint8(k.zone)
	f.ToSport, f.ToDport = netPort(r.src.Port()), netPort(r.dst.Port())
	var value any = bpf.Flow6{
		Flow: f, Saddr: words(k.src.Addr()), Daddr: words(k.dst.Addr()),
		ToSaddr: words(r.src.Addr()), ToDaddr: words(r.dst.Addr()),
	}
	if k.src.Addr().Is4() {
		value = bpf.Flow4{
			Flow: f, Saddr: word(k.src.Addr()), Daddr: word(k.dst.Addr()),
			ToSaddr: word(r.src.Addr()), ToDaddr: word(r.dst.Addr()),
		}
	}
	var b bytes.Buffer
	must(binary.Write(&b, binary.NativeEndian, value))
	return b.Bytes()
}

// flowTable is the table of a family.
func (d *datapath) flowTable(a netip.Addr) table { return d.tables[family("flows", a)] }

func (d *datapath) lookup(k tuple) (record, bool) {
	r, _, ok := d.flowTable(k.src.Addr()).find(k)
	return r, ok
}

// get returns a record that must exist.
func (n *node) get(k tuple) record {
	n.t.Helper()
	r, ok := n.lookup(k)
	if !ok {
		n.t.Fatalf("there is no record of %v", k)
	}
	return r
}

// alter changes a record in place.
func (n *node) alter(k tuple, change func(*record)) {
	n.t.Helper()
	r := n.get(k)
	change(&r)
	if err := n.flowTable(k.src.Addr()).replace(r); err != nil {
		n.t.Fatal(err)
	}
}

func (n *node) remove(k tuple) {
	n.t.Helper()
	if err := n.flowTable(k.src.Addr()).remove(k); err != nil {
		n.t.Fatalf("%v: %v", k, err)
	}
}

// sameRecords expects that the records were found in this order, and that no
// bit of them has changed.
func sameRecords(t *testing.T, before, after []record) {
	t.Helper()
	if !slices.Equal(before, after) {
		t.Errorf("the records were %+v\nand now are %+v", before, after)
	}
}

// settled checks that a family's table is consistent while no record is being
// made.
func (n *node) settled(v variant) {
	n.t.Helper()
	if err := n.flowTable(v.client).settled(); err != nil {
		n.t.Error(err)
	}
}

// size is the number of records in a family's table.
func (d *datapath) size(v variant) int {
	records, _ := d.flowTable(v.client).contents()
	return len(records)
}

// nexthop returns the FIB's answer that a record refers to. The result is false
// if there is none that may be used.
func (d *datapath) nexthop(r record) (bpf.Nexthop, bool) {
	var state bpf.RuntimeState
	must(d.maps["runtime"].Lookup(uint32(0), &state))
	if uint32(r.Hop>>32) != state.Generation {
		return bpf.Nexthop{}, false
	}
	n := d.nexthopAt(hopIndex(r.Hop))
	return n, n.Generation == state.Generation && n.Hop.Flags&bpf.HopResolved != 0
}

// hopIndex and hopVersion are parts of a record's reference to a next hop.
func hopIndex(hop uint64) uint32   { return uint32(hop) & 0xffffff }
func hopVersion(hop uint64) uint32 { return uint32(hop) >> 24 }

func (d *datapath) nexthopAt(index uint32) (n bpf.Nexthop) {
	must(d.maps["nexthops"].Lookup(index, &n))
	return n
}

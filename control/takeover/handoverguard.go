// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"net/netip"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/maps"
)

// guard is a table of netfilter that drops packets with the given tuples for which the kernel has
// no connection. For an instant neither side translates a connection that is being handed over: the
// kernel would take its packets for the first of a new one, and lead them to any endpoint.
type guard struct {
	conn   *nftables.Conn
	table  *nftables.Table
	family [2]guarded
}

// guarded is the part of the table for one family.
type guarded struct {
	family maps.Family
	set    *nftables.Set
}

const (
	ctNew      = 1 << 3                       // the bit of `ct state` for new connections
	afterTrack = nftables.ChainPriority(-150) // behind the tracking of connections, before NAT
	register0  = 8                            // the first of 16, of 4 bytes each (NFT_REG32_00)
)

func newGuard() (*guard, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	g := &guard{conn: conn, table: &nftables.Table{Name: "waggle-handover", Family: nftables.TableFamilyINet}}
	conn.AddTable(g.table)
	conn.DelTable(g.table) // a table that an interrupted handover has left
	conn.AddTable(g.table)
	chain := conn.AddChain(&nftables.Chain{
		Name: "prerouting", Table: g.table, Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRef(afterTrack),
	})
	for i, family := range maps.Families {
		g.family[i] = guarded{family, &nftables.Set{
			Table: g.table, Name: fmt.Sprintf("moving%d", family), Concatenation: true,
			KeyType: nftables.MustConcatSetType(addressType(family), addressType(family), nftables.TypeInetProto, nftables.TypeInetService, nftables.TypeInetService),
		}}
		if err := conn.AddSet(g.family[i].set, nil); err != nil {
			return nil, fmt.Errorf("nftables: the set %s: %w", g.family[i].set.Name, err)
		}
		conn.AddRule(&nftables.Rule{Table: g.table, Chain: chain, Exprs: g.family[i].rule()})
	}
	return g, g.flush()
}

func (g *guard) flush() error {
	if err := g.conn.Flush(); err != nil {
		return fmt.Errorf("nftables: the table %s: %w", g.table.Name, err)
	}
	return nil
}

// rule: ct state new, and source, destination, protocol and ports are in the set: drop.
func (g guarded) rule() []expr.Any {
	source, size, nfproto := uint32(12), uint32(4), byte(unix.NFPROTO_IPV4)
	if g.family == maps.IPv6 {
		source, size, nfproto = 8, 16, unix.NFPROTO_IPV6
	}
	addr, next := uint32(register0), register0+2*size/4
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{nfproto}},
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ctNew), Xor: binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Payload{DestRegister: addr, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: size},
		&expr.Payload{DestRegister: addr + size/4, Base: expr.PayloadBaseNetworkHeader, Offset: source + size, Len: size},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: next},
		&expr.Payload{DestRegister: next + 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 2},
		&expr.Payload{DestRegister: next + 2, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Lookup{SourceRegister: addr, SetName: g.set.Name, SetID: g.set.ID},
		&expr.Verdict{Kind: expr.VerdictDrop},
	}
}

func addressType(f maps.Family) nftables.SetDatatype {
	if f == maps.IPv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

// hold replaces the tuples.
func (g *guard) hold(tuples []maps.Tuple) error {
	for _, part := range g.family {
		g.conn.FlushSet(part.set)
		var elements []nftables.SetElement
		for _, t := range tuples {
			if maps.FamilyOf(t.Src.Addr()) == part.family {
				elements = append(elements, nftables.SetElement{Key: guardKey(t)})
			}
		}
		if len(elements) == 0 {
			continue
		}
		if err := g.conn.SetAddElements(part.set, elements); err != nil {
			return fmt.Errorf("nftables: the set %s: %w", part.set.Name, err)
		}
	}
	return g.flush()
}

// guardKey: each part begins at a multiple of 4 bytes.
func guardKey(t maps.Tuple) []byte {
	port := func(a netip.AddrPort) []byte { return append(binaryutil.BigEndian.PutUint16(a.Port()), 0, 0) }
	key := append(t.Src.Addr().AsSlice(), t.Dst.Addr().AsSlice()...)
	key = append(key, t.Proto, 0, 0, 0)
	key = append(key, port(t.Src)...)
	return append(key, port(t.Dst)...)
}

func (g *guard) remove() error {
	g.conn.DelTable(g.table)
	return g.flush()
}

// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// natTable has no rule that does anything. But when the last rules that need NAT are deleted, the
// kernel takes NAT and connection tracking off the path of packets, and all connections that it
// translates break.
var natTable = &nftables.Table{Name: "waggle-takeover", Family: nftables.TableFamilyINet}

// ctEstablished is the bit of `ct state` for established connections.
const ctEstablished = 1 << 1

// keepNAT makes the kernel go on translating its connections.
func keepNAT() error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	c.AddTable(natTable)
	c.FlushTable(natTable)
	chain := c.AddChain(&nftables.Chain{
		Name: "postrouting", Table: natTable,
		Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	// ct state established accept: only new connections reach this chain, so it never matches.
	c.AddRule(&nftables.Rule{Table: natTable, Chain: chain, Exprs: []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{
			SourceRegister: 1, DestRegister: 1, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(ctEstablished), Xor: binaryutil.NativeEndian.PutUint32(0),
		},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(0)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	}})
	if err := c.Flush(); err != nil {
		return fmt.Errorf("nftables: add the table %s: %w", natTable.Name, err)
	}
	return nil
}

// keepsNAT reports whether keepNAT is in force.
func keepsNAT() (bool, error) {
	c, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("nftables: %w", err)
	}
	tables, err := c.ListTablesOfFamily(natTable.Family)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return false, nil // the kernel has no nftables
	}
	if err != nil {
		return false, fmt.Errorf("nftables: list tables: %w", err)
	}
	for _, t := range tables {
		if t.Name == natTable.Name {
			return true, nil
		}
	}
	return false, nil
}

// ReleaseNAT undoes what a takeover has done in the kernel outside of the datapath. It returns the
// name of what it removes, if there is something.
func ReleaseNAT() (removed string, err error) {
	kept, err := keepsNAT()
	if err != nil || !kept {
		return "", err
	}
	c, err := nftables.New()
	if err != nil {
		return "", fmt.Errorf("nftables: %w", err)
	}
	c.DelTable(natTable)
	if err := c.Flush(); err != nil {
		return "", fmt.Errorf("nftables: delete the table %s: %w", natTable.Name, err)
	}
	return "nftables table inet " + natTable.Name, nil
}

// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/xtables"
)

// hookNames are the names in the inet families, by number; netdev has its own.
var (
	hookNames       = []string{"prerouting", "input", "forward", "output", "postrouting", "ingress"}
	netdevHookNames = []string{"ingress", "egress"}
)

// WriteText writes the chains of the calling thread's network namespace as text, with their rules. Of
// nf_tables' rules it writes at most the given number in all, and counts the rest; of iptables-legacy's
// it writes only their number. A rule is its expressions in the order in which the kernel evaluates
// them. WriteText leaves out elements of sets, and what the extensions of iptables match.
func WriteText(w io.Writer, rules int) error {
	return errors.Join(writeNFT(w, rules), writeLegacy(w))
}

func writeNFT(w io.Writer, limit int) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return fmt.Errorf("nftables: %w", err)
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing is pending
	chains, err := conn.ListChains()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		_, err = fmt.Fprintln(w, "The kernel has no nf_tables.")
		return err
	}
	if err != nil {
		return fmt.Errorf("nftables: list chains: %w", err)
	}
	if len(chains) == 0 {
		fmt.Fprintln(w, "nf_tables: no chains.")
	}
	for _, c := range chains {
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return fmt.Errorf("nftables: rules of chain %s of table %s: %w", c.Name, c.Table.Name, err)
		}
		fmt.Fprintf(w, "chain %s %s %s%s: %d rules\n", tableFamily(c.Table), c.Table.Name, c.Name, where(c), len(rules))
		for _, r := range rules[:min(limit, len(rules))] {
			fmt.Fprintf(w, "\t%s\n", textOf(r.Exprs))
		}
		limit -= min(limit, len(rules))
	}
	if limit == 0 {
		fmt.Fprintln(w, "Further rules are not listed.")
	}
	return nil
}

func tableFamily(t *nftables.Table) string {
	if name := familyNames[t.Family]; name != "" {
		return name
	}
	return fmt.Sprintf("family %d", t.Family)
}

// where names the hook that calls a chain, if any does.
func where(c *nftables.Chain) string {
	if c.Hooknum == nil {
		return ""
	}
	names, hook, priority, policy := hookNames, int(*c.Hooknum), 0, "accept"
	if c.Table.Family == nftables.TableFamilyNetdev {
		names = netdevHookNames
	}
	name := fmt.Sprintf("hook %d", hook)
	if hook < len(names) {
		name = names[hook]
	}
	if c.Priority != nil {
		priority = int(*c.Priority)
	}
	if c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop {
		policy = "drop"
	}
	return fmt.Sprintf(" (%s at %s, priority %d, policy %s)", c.Type, name, priority, policy)
}

func writeLegacy(w io.Writer) error {
	for _, f := range xtables.Families {
		names, err := f.Tables()
		if err != nil {
			return err
		}
		for _, name := range names {
			t, err := f.Table(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(w, "%s' table %s: %d entries\n", f.Command, name, len(t.Entries))
		}
	}
	return nil
}

// writer writes a rule's expressions as text. It tracks which registers hold addresses, and formats
// only these as addresses.
type writer struct {
	addresses map[uint32]bool
	names     map[uint32]bool // registers that hold names of devices
	words     []string
}

func textOf(exprs []expr.Any) string {
	t := writer{addresses: map[uint32]bool{}, names: map[uint32]bool{}}
	for _, e := range exprs { // an Immediate that loads a register for e comes before e
		if nat, ok := e.(*expr.NAT); ok {
			t.addresses[nat.RegAddrMin], t.addresses[nat.RegAddrMax] = true, true
		}
	}
	for _, e := range exprs {
		t.add(e)
	}
	return strings.Join(t.words, " ")
}

func (t *writer) say(format string, args ...any) {
	t.words = append(t.words, "["+fmt.Sprintf(format, args...)+"]")
}

func (t *writer) add(e expr.Any) {
	switch e := e.(type) {
	case *expr.Meta:
		t.meta(e)
	case *expr.Ct:
		t.addresses[e.Register] = e.Key == expr.CtKeySRC || e.Key == expr.CtKeyDST
		t.say("ct key %d, reg %d, set %v", e.Key, e.Register, e.SourceRegister)
	case *expr.Payload:
		t.addresses[e.DestRegister] = e.Base == expr.PayloadBaseNetworkHeader && (e.Len == 4 || e.Len == 16)
		t.names[e.DestRegister] = false
		t.say("payload of header %d at %d, %d bytes => reg %d", e.Base, e.Offset, e.Len, e.DestRegister)
	case *expr.Immediate:
		t.say("%s => reg %d", t.data(e.Register, e.Data), e.Register)
	case *expr.Bitwise:
		t.addresses[e.DestRegister] = t.addresses[e.SourceRegister]
		t.say("reg %d & %#x ^ %#x => reg %d", e.SourceRegister, e.Mask, e.Xor, e.DestRegister)
	case *expr.Cmp:
		t.say("reg %d %s %s", e.Register, operators[e.Op], t.data(e.Register, e.Data))
	case *expr.Range:
		t.say("reg %d %s %s to %s", e.Register, operators[e.Op], t.data(e.Register, e.FromData), t.data(e.Register, e.ToData))
	default:
		t.addOther(e)
	}
}

func (t *writer) meta(e *expr.Meta) {
	t.addresses[e.Register] = false
	t.names[e.Register] = e.Key == expr.MetaKeyIIFNAME || e.Key == expr.MetaKeyOIFNAME
	t.say("meta key %d, reg %d, set %v", e.Key, e.Register, e.SourceRegister)
}

// addOther writes expressions that load nothing to compare.
func (t *writer) addOther(e expr.Any) {
	switch e := e.(type) {
	case *expr.Lookup:
		t.say("reg %d in set %s, not %v", e.SourceRegister, e.SetName, e.Invert)
	case *expr.Verdict:
		t.say("%s", strings.TrimSpace(verdictNames[e.Kind]+" "+e.Chain))
	case *expr.Counter:
		t.say("counter: %d packets, %d bytes", e.Packets, e.Bytes)
	case *expr.NAT:
		t.say("nat type %d, addresses reg %d, ports reg %d", e.Type, e.RegAddrMin, e.RegProtoMin)
	case *expr.Match:
		t.say("match %s", e.Name)
	case *expr.Target:
		t.say("target %s", e.Name)
	default:
		t.say("%s", strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", e), "*expr.")))
	}
}

var operators = map[expr.CmpOp]string{
	expr.CmpOpEq: "==", expr.CmpOpNeq: "!=", expr.CmpOpLt: "<", expr.CmpOpLte: "<=", expr.CmpOpGt: ">", expr.CmpOpGte: ">=",
}

var verdictNames = map[expr.VerdictKind]string{
	expr.VerdictAccept: "accept", expr.VerdictDrop: "drop", expr.VerdictQueue: "queue", expr.VerdictJump: "jump",
	expr.VerdictGoto: "goto", expr.VerdictReturn: "return", expr.VerdictContinue: "continue",
}

// data formats the value that a register is compared with, or loaded with.
func (t *writer) data(register uint32, raw []byte) string {
	if a, ok := netip.AddrFromSlice(raw); ok && t.addresses[register] {
		return a.String()
	}
	switch {
	case t.names[register]:
		return fmt.Sprintf("%q", unix.ByteSliceToString(raw))
	case len(raw) == 2:
		return fmt.Sprint(binary.BigEndian.Uint16(raw))
	}
	return fmt.Sprintf("%#x", raw)
}

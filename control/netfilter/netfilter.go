// SPDX-License-Identifier: Apache-2.0

// Package netfilter reads the rules that the owner of a node, its CNI plugin and others have given
// the kernel, and judges what they do to packets of services. It never changes them. What a rule
// asks that can't be known beforehand may hold or not.
package netfilter

import (
	"errors"
	"fmt"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
)

// Hook is where a base chain is called.
type Hook int

// The hooks that packets of services pass, in this order.
const (
	NoHook Hook = iota // only other chains lead there
	Ingress
	Prerouting
	Input
	Forward
	OtherHook
)

// Chain is a chain of rules.
type Chain struct {
	Family, Table, Name string
	Hook                Hook
	Drops               bool // its policy is drop
	Legacy              bool // of iptables-legacy's

	rules func() ([]rule, error)
	table *table
}

// String names it as nft does.
func (c *Chain) String() string {
	name := fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name)
	if c.Legacy {
		return name + " of iptables-legacy"
	}
	return name
}

func (c *Chain) concerns(p *Packet) bool {
	return c.Family == "inet" || c.Family == "netdev" || c.Family == "ip" && !p.IPv6 || c.Family == "ip6" && p.IPv6
}

// table has the chains that may lead to each other.
type table struct {
	chains map[string]*Chain
}

// rule reports whether it applies to a packet, and what it does then: one of several things, where
// that can't be known.
type rule func(p *Packet) (applies truth, does []action)

// action is what a rule does to a packet.
type action struct {
	kind  kind
	chain string // of jumpTo and goTo
}

type kind int

const (
	next kind = iota // nothing: the next rule decides
	accept
	drop   // or reject
	askFor // a process decides, by a queue
	mark   // for others, and goes on
	jumpTo
	goTo
	back // to the chain that led here
)

// Rules are all rules of a network namespace.
type Rules struct {
	base []*Chain
	conn *nftables.Conn
}

// Read reads the chains of the calling thread's network namespace; their rules are read when they
// are asked for, until Close.
func Read() (*Rules, error) {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("nftables: %w", err)
	}
	r := &Rules{conn: conn}
	if err := errors.Join(r.readNFT(), r.readLegacy()); err != nil {
		r.Close()
		return nil, err
	}
	return r, nil
}

// Close ends the reading.
func (r *Rules) Close() {
	r.conn.CloseLasting() //nolint:errcheck // nothing is pending
}

var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6",
	nftables.TableFamilyINet: "inet", nftables.TableFamilyNetdev: "netdev",
}

func (r *Rules) readNFT() error {
	chains, err := r.conn.ListChains()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil // the kernel has no nf_tables
	}
	if err != nil {
		return fmt.Errorf("nftables: list chains: %w", err)
	}
	tables := map[string]*table{}
	for _, c := range chains {
		family := familyNames[c.Table.Family]
		if family == "" {
			continue
		}
		key := family + " " + c.Table.Name
		if tables[key] == nil {
			tables[key] = &table{chains: map[string]*Chain{}}
		}
		r.add(tables[key], &Chain{
			Family: family, Table: c.Table.Name, Name: c.Name, Hook: hookOf(c),
			Drops: c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop,
			rules: r.rulesOf(c),
		})
	}
	return nil
}

func (r *Rules) add(t *table, c *Chain) {
	c.table = t
	t.chains[c.Name] = c
	if c.Hook != NoHook {
		r.base = append(r.base, c)
	}
}

func hookOf(c *nftables.Chain) Hook {
	switch {
	case c.Hooknum == nil:
		return NoHook
	case c.Type == nftables.ChainTypeNAT:
		return OtherHook // it translates, and has no say in what passes
	case c.Table.Family == nftables.TableFamilyNetdev:
		if *c.Hooknum == *nftables.ChainHookIngress {
			return Ingress
		}
		return OtherHook
	}
	switch *c.Hooknum {
	case *nftables.ChainHookPrerouting:
		return Prerouting
	case *nftables.ChainHookInput:
		return Input
	case *nftables.ChainHookForward:
		return Forward
	}
	return OtherHook
}

// rulesOf reads a chain's rules once.
func (r *Rules) rulesOf(c *nftables.Chain) func() ([]rule, error) {
	var rules []rule
	read := false
	return func() ([]rule, error) {
		if read {
			return rules, nil
		}
		all, err := r.conn.GetRules(c.Table, c)
		if err != nil {
			return nil, fmt.Errorf("nftables: rules of chain %s of table %s: %w", c.Name, c.Table.Name, err)
		}
		sets := setReader{conn: r.conn, table: c.Table}
		for _, one := range all {
			rules = append(rules, (&nftRule{one.Exprs, &sets}).judge)
		}
		read = true
		return rules, nil
	}
}

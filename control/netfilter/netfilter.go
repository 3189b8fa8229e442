// SPDX-License-Identifier: Apache-2.0

// Package netfilter reads the kernel's netfilter rules, which the owner of the node, its CNI plugin
// and others have made, and evaluates them for packets of services. It never changes them. A
// condition that can't be known beforehand may hold or not.
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
	NoHook Hook = iota // only other chains jump there
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
	Legacy              bool // of iptables-legacy

	rules func() ([]rule, error)
	table *table
}

// String names the chain as nft does.
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

// table has the chains that may jump to each other.
type table struct {
	chains map[string]*Chain
}

// rule reports whether it applies to a packet, and what it does then. Where this can't be known, it
// returns all possible actions.
type rule func(p *Packet) (applies truth, does []action)

// action is what a rule does to a packet.
type action struct {
	kind  kind
	chain string // target of jumpTo and goTo
}

type kind int

const (
	next kind = iota // the next rule decides
	accept
	drop   // or reject
	askFor // a process decides, by a queue
	mark   // sets a mark for others, and continues
	jumpTo
	goTo
	back // back to the calling chain
)

// Rules are all rules of a network namespace.
type Rules struct {
	base []*Chain
	conn *nftables.Conn
}

// Read reads the chains of the calling thread's network namespace. Their rules are read when they
// are needed, until Close.
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

// Close closes the connection to the kernel.
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
		return OtherHook // this chain translates, and filters nothing
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

// rulesOf reads a chain's rules once, at the first call.
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

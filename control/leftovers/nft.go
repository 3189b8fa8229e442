// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// kubeProxyTable is the name of kube-proxy's table in its nftables mode. Each family has one.
const kubeProxyTable = "kube-proxy"

// familyNames are the names that nft and iptables-nft use.
var familyNames = map[nftables.TableFamily]string{
	nftables.TableFamilyIPv4: "ip",
	nftables.TableFamilyIPv6: "ip6",
}

func nftName(t *nftables.Table) string { return familyNames[t.Family] + " " + t.Name }

// listNFT lists the tables in which kube-proxy may have rules. On a kernel without nf_tables there
// are none.
func listNFT(conn *nftables.Conn) (own, iptables []*nftables.Table, err error) {
	tables, err := conn.ListTables()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, fmt.Errorf("list nftables' tables: %w", err)
	}
	for _, t := range tables {
		switch {
		case familyNames[t.Family] == "":
		case t.Name == kubeProxyTable:
			own = append(own, t)
		case slices.Contains(iptablesTables, t.Name):
			iptables = append(iptables, t)
		}
	}
	return own, iptables, nil
}

func seenNFT() ([]string, error) {
	conn, err := nftables.New()
	if err != nil {
		return nil, err
	}
	own, iptables, err := listNFT(conn)
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, t := range own {
		seen = append(seen, "nftables table "+nftName(t))
	}
	for _, t := range iptables {
		chains, err := chainsOf(conn, t)
		if err != nil {
			return seen, err
		}
		if slices.ContainsFunc(chains, func(c *nftables.Chain) bool { return isTelling(c.Name) }) {
			seen = append(seen, "iptables-nft's table "+nftName(t))
		}
	}
	return seen, nil
}

func chainsOf(conn *nftables.Conn, t *nftables.Table) ([]*nftables.Chain, error) {
	all, err := conn.ListChainsOfTableFamily(t.Family)
	if err != nil {
		return nil, fmt.Errorf("list the chains of %s: %w", nftName(t), err)
	}
	return slices.DeleteFunc(all, func(c *nftables.Chain) bool { return c.Table.Name != t.Name }), nil
}

func removeNFT(r *Report) error {
	conn, err := nftables.New(nftables.AsLasting())
	if err != nil {
		return err
	}
	defer conn.CloseLasting() //nolint:errcheck // nothing is pending
	own, iptables, err := listNFT(conn)
	if err != nil {
		return err
	}
	var errs []error
	for _, t := range own {
		conn.DelTable(t)
		if err := conn.Flush(); err != nil {
			errs = append(errs, fmt.Errorf("delete nftables' table %s: %w", nftName(t), err))
			continue
		}
		r.removed("nftables table %s", nftName(t))
	}
	for _, t := range iptables {
		if err := removeChains(conn, t, r); err != nil {
			errs = append(errs, fmt.Errorf("iptables' table %s: %w", nftName(t), err))
		}
	}
	return errors.Join(errs...)
}

// perBatch is how many changes one batch has: thousands don't fit the kernel's buffers.
const perBatch = 100

func removeChains(conn *nftables.Conn, t *nftables.Table, r *Report) error {
	chains, err := chainsOf(conn, t)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range chains {
		names = append(names, c.Name)
	}
	if !slices.ContainsFunc(names, isKubeProxys) {
		return nil
	}
	jumps, err := jumpsOf(conn, t, chains)
	if err != nil {
		return err
	}
	plan := planRemoval(names, jumps)
	for _, rule := range plan.rules {
		if err := conn.DelRule(rule); err != nil {
			return err
		}
	}
	if err := conn.Flush(); err != nil { // from here on no packet reaches kube-proxy's chains
		return fmt.Errorf("delete the rules that lead to kube-proxy's chains: %w", err)
	}
	for _, change := range []func(*nftables.Chain){conn.FlushChain, conn.DelChain} {
		for batch := range slices.Chunk(plan.chains, perBatch) {
			for _, name := range batch {
				change(&nftables.Chain{Name: name, Table: t})
			}
			if err := conn.Flush(); err != nil {
				return fmt.Errorf("empty and delete kube-proxy's chains: %w", err)
			}
		}
	}
	plan.report(r, "iptables' table "+nftName(t))
	return nil
}

func jumpsOf(conn *nftables.Conn, t *nftables.Table, chains []*nftables.Chain) ([]jump[*nftables.Rule], error) {
	var jumps []jump[*nftables.Rule]
	for _, c := range chains {
		rules, err := conn.GetRules(t, c)
		if err != nil {
			return nil, fmt.Errorf("read the rules of chain %s: %w", c.Name, err)
		}
		for _, rule := range rules {
			for _, e := range rule.Exprs {
				verdict, ok := e.(*expr.Verdict)
				if ok && (verdict.Kind == expr.VerdictJump || verdict.Kind == expr.VerdictGoto) {
					jumps = append(jumps, jump[*nftables.Rule]{c.Name, verdict.Chain, c.Hooknum != nil, rule})
				}
			}
		}
	}
	return jumps, nil
}

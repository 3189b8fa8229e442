// SPDX-License-Identifier: Apache-2.0

package leftovers

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/waggle-lb/waggle/control/xtables"
)

// legacy is one family's part of iptables-legacy.
type legacy struct{ xtables.Family }

// tables lists the tables in which kube-proxy may have chains.
func (l legacy) tables() ([]string, error) {
	all, err := l.Tables()
	return slices.DeleteFunc(all, func(t string) bool { return !slices.Contains(iptablesTables, t) }), err
}

// chains lists the chains that are not built in.
func (l legacy) chains(table string) ([]string, error) {
	t, err := l.Table(table)
	if err != nil {
		return nil, err
	}
	var chains []string
	for _, e := range t.Entries {
		if name, begins := e.ChainName(); begins {
			chains = append(chains, name)
		}
	}
	return chains, nil
}

// seen lists the tables that have kube-proxy's chains.
func (l legacy) seen() ([]string, error) {
	tables, err := l.tables()
	if err != nil {
		return nil, err
	}
	var seen []string
	for _, table := range tables {
		chains, err := l.chains(table)
		if err != nil {
			return seen, err
		}
		if slices.ContainsFunc(chains, isTelling) {
			seen = append(seen, table)
		}
	}
	return seen, nil
}

func seenLegacy() ([]string, error) {
	var all []string
	var errs []error
	for _, family := range xtables.Families {
		l := legacy{family}
		seen, err := l.seen()
		for _, table := range seen {
			all = append(all, fmt.Sprintf("%s' table %s", l.Command, table))
		}
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

func removeLegacy(r *Report) error {
	var errs []error
	for _, family := range xtables.Families {
		l := legacy{family}
		seen, err := l.seen()
		errs = append(errs, err)
		for _, table := range seen {
			if _, err := exec.LookPath(l.Command + "-save"); err != nil {
				r.left("kube-proxy's chains in %s' table %s: it takes that program, which is not installed here, to remove them "+
					"(on the host: waggle cleanup --kube-proxy, or kube-proxy --cleanup)", l.Command, table)
				continue
			}
			if err := l.remove(table, r); err != nil {
				errs = append(errs, fmt.Errorf("%s' table %s: %w", l.Command, table, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (l legacy) remove(table string, r *Report) error {
	saved, err := exec.Command(l.Command+"-save", "-t", table).Output()
	if err != nil {
		return fmt.Errorf("%s-save: %w", l.Command, err)
	}
	plan := planRemoval(parseSaved(string(saved)))
	restore := exec.Command(l.Command+"-restore", "--noflush")
	restore.Stdin = strings.NewReader(restoreInput(table, plan.rules, plan.chains))
	if out, err := restore.CombinedOutput(); err != nil {
		return fmt.Errorf("%s-restore: %w: %s", l.Command, err, bytes.TrimSpace(out))
	}
	plan.report(r, l.Command+"' table "+table)
	return nil
}

// parseSaved parses the output of iptables-save for one table. A rule is identified by its
// arguments.
func parseSaved(saved string) (chains []string, jumps []jump[string]) {
	builtin := map[string]bool{}
	for line := range strings.Lines(saved) {
		line = strings.TrimSpace(line)
		fields := strings.Fields(line)
		switch {
		case len(fields) > 1 && strings.HasPrefix(line, ":"):
			name := fields[0][1:]
			chains = append(chains, name)
			builtin[name] = fields[1] != "-" // only a built-in chain has a policy
		case len(fields) > 3 && fields[0] == "-A":
			// Comments are quoted, and options of targets come last. Jumps to chains have no
			// options.
			if kind := fields[len(fields)-2]; kind == "-j" || kind == "-g" {
				jumps = append(jumps, jump[string]{fields[1], fields[len(fields)-1], builtin[fields[1]], strings.TrimPrefix(line, "-A ")})
			}
		}
	}
	return chains, jumps
}

// restoreInput is the input that makes iptables-restore --noflush remove them, in one transaction.
func restoreInput(table string, rules, chains []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, "*%s\n", table)
	for _, chain := range chains {
		fmt.Fprintf(&b, ":%s - [0:0]\n", chain) // empties the chain
	}
	for _, rule := range rules {
		fmt.Fprintf(&b, "-D %s\n", rule)
	}
	for _, chain := range chains {
		fmt.Fprintf(&b, "-X %s\n", chain)
	}
	b.WriteString("COMMIT\n")
	return b.String()
}

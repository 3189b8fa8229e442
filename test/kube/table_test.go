// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// verdict is a flow with what came of it.
type verdict struct {
	flow           flow
	oracle, waggle outcome
	agreed         bool
	exception      *exception
}

// verdicts are the oracle's table.
type verdicts []verdict

func compare(groups [][]flow, oracle, waggle map[string]outcome) verdicts {
	var all verdicts
	for _, f := range slices.Concat(groups...) {
		v := verdict{flow: f, oracle: oracle[f.String()], waggle: waggle[f.String()]}
		v.agreed, v.exception = agree(f, v.oracle, v.waggle)
		all = append(all, v)
	}
	return all
}

// byRow has what the proxies disagree about, for each row of the contract that
// flows were about.
func (all verdicts) byRow() map[int][]string {
	rows := map[int][]string{}
	for _, v := range all {
		for _, row := range v.flow.rows() {
			lines := rows[row]
			if !v.agreed {
				lines = append(lines, fmt.Sprintf("%s: kube-proxy: %s; waggle: %s", v.flow, v.oracle, v.waggle))
			}
			rows[row] = lines
		}
	}
	return rows
}

// result is the last column of the table.
func (v verdict) result() string {
	switch {
	case !v.agreed:
		return "DIFFERENT"
	case v.exception != nil:
		return fmt.Sprintf("row %d", v.exception.row)
	}
	return "same"
}

// String is the table: a line for the flows that differ in family and protocol
// only, as long as they don't in what came of them.
func (all verdicts) String() string {
	type line struct{ service, source, frontend, oracle, waggle, result string }
	var lines []line
	kinds := map[line][]string{}
	count := map[string]int{}
	for _, v := range all {
		count[v.result()]++
		l := line{v.flow.service.name, v.flow.source.name, v.flow.frontend.name, v.oracle.String(), v.waggle.String(), v.result()}
		if kinds[l] == nil {
			lines = append(lines, l)
		}
		kinds[l] = append(kinds[l], v.flow.kind())
	}
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "SERVICE\tFROM\tTO\tBY\tKUBE-PROXY\tWAGGLE\tRESULT")
	for _, l := range lines {
		by := strings.Join(kinds[l], ", ")
		if len(kinds[l]) == 4 {
			by = "all"
		}
		waggle := l.waggle
		if waggle == l.oracle {
			waggle = "="
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.service, l.source, l.frontend, by, l.oracle, waggle, l.result)
	}
	w.Flush()
	fmt.Fprintf(&out, "\n%d flows: %v\n", len(all), count)
	for _, e := range exceptions {
		fmt.Fprintf(&out, "row %d: %s\n", e.row, e.says)
	}
	return out.String()
}

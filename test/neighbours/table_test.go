// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// verdict is a cell with what came of it by each proxy.
type verdict struct {
	cell           cell
	oracle, waggle string
	exception      *clause
	promise        *clause
	shortcoming    *clause
}

// fails reports whether waggle does less than kube-proxy, or less than it promises, without an exception for
// it.
func (v verdict) fails() bool {
	return v.waggle != "" && v.exception == nil && (v.oracle == "" || v.promise != nil)
}

// report is what came of an environment.
type report struct {
	environment environment
	verdicts    []verdict
}

func compare(e environment, oracle, waggle outcomes) report {
	r := report{environment: e}
	for _, c := range e.cells() {
		r.verdicts = append(r.verdicts, verdict{c, oracle[c.String()], waggle[c.String()],
			find(exceptions, e.name, c), find(promises, e.name, c), find(shortcomings, e.name, c)})
	}
	return r
}

// byPath groups the verdicts, in the order of the paths.
func (r report) byPath() (names []string, groups map[string][]verdict) {
	groups = map[string][]verdict{}
	for _, v := range r.verdicts {
		if groups[v.cell.path.name] == nil {
			names = append(names, v.cell.path.name)
		}
		groups[v.cell.path.name] = append(groups[v.cell.path.name], v)
	}
	return names, groups
}

// table has a line for each path of each environment.
func table(reports []report) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ENVIRONMENT\tROWS\tPATH\tKUBE-PROXY\tWAGGLE\tRESULT")
	for _, r := range reports {
		names, groups := r.byPath()
		rows := strings.Trim(fmt.Sprint(r.environment.rows), "[]")
		for _, name := range names {
			all := groups[name]
			oracle := summary(all, func(v verdict) string { return v.oracle })
			waggle := summary(all, func(v verdict) string { return v.waggle })
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", r.environment.name, rows, name, oracle, waggle, result(all))
		}
	}
	w.Flush()
	fmt.Fprintf(&out, "\nExceptions:\n%sPromises:\n%sWhat kube-proxy can't do:\n%s", list(exceptions), list(promises), list(shortcomings))
	return out.String()
}

func list(clauses []clause) string {
	var out strings.Builder
	for _, c := range clauses {
		fmt.Fprintf(&out, "  %s, %s: row %d: %s\n", c.environment, c.cells, c.row, c.says)
	}
	return out.String()
}

// summary says how many cells work, and which don't.
func summary(all []verdict, why func(verdict) string) string {
	failed, total := map[string][]string{}, map[string]int{} // by backend
	count := 0
	for _, v := range all {
		total[v.cell.backend]++
		if why(v) != "" {
			failed[v.cell.backend] = append(failed[v.cell.backend], v.cell.kind())
			count++
		}
	}
	switch count {
	case 0:
		return "all"
	case len(all):
		return "none"
	}
	var kinds []string
	for _, backend := range slices.Sorted(maps.Keys(failed)) {
		if len(failed[backend]) == total[backend] {
			failed[backend] = []string{backend}
		}
		kinds = append(kinds, failed[backend]...)
	}
	return fmt.Sprintf("%d/%d, not %s", len(all)-count, len(all), strings.Join(kinds, ", "))
}

// result is the last column: what the comparison of a path says.
func result(all []verdict) string {
	said := "same"
	for _, v := range all {
		switch {
		case v.fails():
			return "FAILS"
		case v.exception != nil:
			said = fmt.Sprintf("row %d", v.exception.row)
		case said == "same" && v.oracle != "" && v.waggle == "":
			said = "better"
		}
	}
	return said
}

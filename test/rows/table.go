// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// table lists all rows with their tests, and the results of these if they ran.
func (c claims) table(results map[test]result, ran bool) string {
	var out strings.Builder
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "ROW\tWHAT\tTEST")
	if ran {
		fmt.Fprint(w, "\tRESULT")
	}
	fmt.Fprintln(w)
	for i, title := range contract {
		row := fmt.Sprint(i + 1)
		if len(c[i+1]) == 0 {
			fmt.Fprintf(w, "%s\t%s\tnone\n", row, title)
		}
		for _, t := range c[i+1] {
			fmt.Fprintf(w, "%s\t%s\t%s %s", row, title, t.pkg, t.name)
			if ran {
				fmt.Fprintf(w, "\t%s", resultOf(results, t, i+1))
			}
			fmt.Fprintln(w)
			row, title = "", ""
		}
	}
	w.Flush()
	return out.String()
}

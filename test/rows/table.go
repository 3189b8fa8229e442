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
	for _, r := range contract {
		number, title := fmt.Sprint(r.number), r.title
		if len(c[r.number]) == 0 {
			fmt.Fprintf(w, "%s\t%s\tnone\n", number, title)
		}
		for _, t := range c[r.number] {
			fmt.Fprintf(w, "%s\t%s\t%s %s", number, title, t.pkg, t.name)
			if ran {
				fmt.Fprintf(w, "\t%s", resultOf(results, t, r.number))
			}
			fmt.Fprintln(w)
			number, title = "", ""
		}
	}
	w.Flush()
	return out.String()
}

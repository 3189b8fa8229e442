// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"unicode/utf8"
)

// columns are a table's headings, each padded to a width that the tables of one kind share, so
// that they stand below each other.
type columns []struct {
	name  string
	width int
}

// table is rows, whose cells may have several lines each.
type table struct {
	columns columns
	rows    [][][]string
}

func (t *table) add(cells ...[]string) { t.rows = append(t.rows, cells) }

func line(s string) []string { return []string{s} }

// wrong is the cell that tells of problems; the first ones are enough to go by.
func wrong(problems []string) []string {
	const few = 3
	cell := slices.Clone(problems[:min(few, len(problems))])
	cell[0] = "WRONG: " + cell[0]
	if more := len(problems) - few; more > 0 {
		cell = append(cell, fmt.Sprintf("and %d more", more))
	}
	return cell
}

func (t *table) write(w io.Writer) {
	var text strings.Builder
	tw := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	var heads []string
	for _, c := range t.columns {
		heads = append(heads, c.name+strings.Repeat(" ", max(0, c.width-utf8.RuneCountInString(c.name))))
	}
	writeLine(tw, heads)
	for _, row := range t.rows {
		lines := 0
		for _, cell := range row {
			lines = max(lines, len(cell))
		}
		for i := range lines {
			cells := make([]string, len(row))
			for j, cell := range row {
				if i < len(cell) {
					cells[j] = cell[i]
				}
			}
			writeLine(tw, cells)
		}
	}
	_ = tw.Flush() // to memory
	for l := range strings.Lines(text.String()) {
		fmt.Fprintln(w, strings.TrimRight(l, " \n"))
	}
}

func writeLine(w io.Writer, cells []string) {
	fmt.Fprintln(w, "  "+strings.Join(cells, "\t"))
}

// heading begins a part of the demo.
func (d *demo) heading(title, text string) {
	fmt.Fprintf(d.out, "\n== %s ==\n", title)
	for l := range strings.Lines(text) {
		fmt.Fprintf(d.out, "   %s\n", strings.TrimSpace(l))
	}
}

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

// columns are a table's headings. Each is padded to a width that all tables of one kind share, so that
// their columns are aligned.
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

// wrongMark begins a result that is not as it should be.
const wrongMark = "WRONG:"

// wrong is the cell of a result with problems. It shows the first few.
func wrong(problems []string) []string {
	const few = 3
	cell := slices.Clone(problems[:min(few, len(problems))])
	cell[0] = wrongMark + " " + cell[0]
	if more := len(problems) - few; more > 0 {
		cell = append(cell, fmt.Sprintf("and %d more", more))
	}
	return cell
}

func (t *table) write(w io.Writer, s style) {
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
	heading := true
	for l := range strings.Lines(text.String()) {
		if l = strings.TrimRight(l, " \n"); heading {
			l, heading = s.bold(l), false
		}
		fmt.Fprintln(w, s.result(l))
	}
}

func writeLine(w io.Writer, cells []string) {
	fmt.Fprintln(w, "  "+strings.Join(cells, "\t"))
}

// heading begins a part of the demo.
func (d *demo) heading(title, text string) {
	d.print("\n%s", d.style.bold("== "+title+" =="))
	for l := range strings.Lines(text) {
		d.print("   %s", strings.TrimSpace(l))
	}
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"
)

// output is the -o flag, in kubectl's manner.
type output struct {
	format string
}

func (o *output) addFlag(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "output format: table, wide, json or yaml")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		switch o.format {
		case "table", "wide", "json", "yaml":
			return nil
		}
		return fmt.Errorf("-o %s: unknown format; one of table, wide, json, yaml", o.format)
	}
}

func (o *output) wide() bool { return o.format == "wide" }

// tabular: for people, not as objects.
func (o *output) tabular() bool { return o.format == "table" || o.wide() }

// table is the output for people. Its rows have as many cells as the header.
type table struct {
	header []string
	rows   [][]string
	empty  string // the text if there are no rows
}

// print writes objects as JSON or YAML, or their table.
func (o *output) print(w io.Writer, objects any, t func(wide bool) table) error {
	return o.printAs(w, objects, func(w io.Writer) error { return t(o.wide()).write(w) })
}

// printAs writes objects as JSON or YAML, or calls a function that writes them for people.
func (o *output) printAs(w io.Writer, objects any, words func(io.Writer) error) error {
	if o.tabular() {
		return words(w)
	}
	raw, err := o.marshal(objects)
	if err != nil {
		return err
	}
	_, err = w.Write(raw)
	return err
}

// printNext writes one of several objects as a document of its own.
func (o *output) printNext(w io.Writer, object any) error {
	raw, err := o.marshal(object)
	if err != nil {
		return err
	}
	if o.format == "yaml" {
		raw = append([]byte("---\n"), raw...)
	}
	_, err = w.Write(raw)
	return err
}

func (o *output) marshal(object any) ([]byte, error) {
	if o.format == "yaml" {
		return yaml.Marshal(object)
	}
	raw, err := json.MarshalIndent(object, "", "  ")
	return append(raw, '\n'), err
}

func (t table) write(w io.Writer) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, t.empty)
		return err
	}
	var c columns
	return c.write(w, append([][]string{t.header}, t.rows...))
}

// columns pads rows, all of them of the same number of cells. The widths only grow, so that later rows
// align with the first ones.
type columns struct{ widths []int }

// columnGap are the blanks between two columns.
const columnGap = 3

func (c *columns) write(w io.Writer, rows [][]string) error {
	for _, row := range rows {
		for i, cell := range row {
			if i == len(c.widths) {
				c.widths = append(c.widths, 0)
			}
			c.widths[i] = max(c.widths[i], utf8.RuneCountInString(cell))
		}
	}
	var text strings.Builder
	for _, row := range rows {
		for i, cell := range row[:len(row)-1] {
			fmt.Fprintf(&text, "%-*s", c.widths[i]+columnGap, cell)
		}
		fmt.Fprintln(&text, row[len(row)-1])
	}
	_, err := io.WriteString(w, text.String())
	return err
}

// orNone spells an empty cell as kubectl does.
func orNone(values []string) string {
	if len(values) == 0 {
		return "<none>"
	}
	return strings.Join(values, ",")
}

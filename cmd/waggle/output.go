// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

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

// table is what is shown to people; its rows have as many cells as the header.
type table struct {
	header []string
	rows   [][]string
	empty  string // what to say when there are no rows
}

// print writes objects as JSON or YAML, or their table.
func (o *output) print(w io.Writer, objects any, t func(wide bool) table) error {
	return o.printAs(w, objects, func(w io.Writer) error { return t(o.wide()).write(w) })
}

// printAs writes objects as JSON or YAML, or calls a function that writes them for people.
func (o *output) printAs(w io.Writer, objects any, words func(io.Writer) error) error {
	switch o.format {
	case "json":
		raw, err := json.MarshalIndent(objects, "", "  ")
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(w, string(raw))
		return err
	case "yaml":
		raw, err := yaml.Marshal(objects)
		if err != nil {
			return err
		}
		_, err = w.Write(raw)
		return err
	}
	return words(w)
}

func (t table) write(w io.Writer) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, t.empty)
		return err
	}
	tw := tabwriter.NewWriter(w, 0, 8, 3, ' ', 0)
	for _, row := range append([][]string{t.header}, t.rows...) {
		if _, err := fmt.Fprintln(tw, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return tw.Flush()
}

// orNone spells an empty cell as kubectl does.
func orNone(values []string) string {
	if len(values) == 0 {
		return "<none>"
	}
	return strings.Join(values, ",")
}

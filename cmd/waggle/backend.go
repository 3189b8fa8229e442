// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/loader"
)

func newBackend(g *globals) *cobra.Command {
	var out output
	list := &cobra.Command{
		Use:   "list",
		Short: "List backends",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			backends, err := fromPins(g, func(p *loader.View) ([]backendView, error) {
				backends, err := readBackends(p)
				if err != nil || !out.wide() {
					return backends, err
				}
				return backends, measureBackends(p, backends)
			})
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), backends, func(wide bool) table { return backendTable(backends, wide) })
		},
	}
	out.addFlag(list)
	return newGroup("backend", []string{"backends"}, "Show the backends in the datapath", list)
}

func backendTable(backends []backendView, wide bool) table {
	t := table{
		header: []string{"ID", "SERVICE", "PORT", "PROTOCOL", "ADDRESS", "LOCAL", "SERVING"},
		empty:  "No backends in the datapath.",
	}
	if wide {
		t.header = append(slices.Concat(t.header, []string{"SETS"}), trafficColumns...)
	}
	for _, b := range backends {
		row := []string{fmt.Sprint(b.ID), cmp.Or(b.Service, "<none>"), cmp.Or(b.Port, "<unnamed>"), b.Proto, b.Address.String(),
			fmt.Sprint(b.Local), fmt.Sprint(b.Serving)}
		if wide {
			row = append(append(row, orNone(b.Sets)), cmp.Or(b.counted, &traffic{}).cells()...)
		}
		t.rows = append(t.rows, row)
	}
	return t
}

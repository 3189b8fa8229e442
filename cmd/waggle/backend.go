// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/loader"
)

func newBackend(g *globals) *cobra.Command {
	cmd := &cobra.Command{Use: "backend", Aliases: []string{"backends"}, Short: "Show the backends in the datapath"}
	var out output
	list := &cobra.Command{
		Use:   "list",
		Short: "List backends",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p, err := loader.Open(g.pinDir)
			if err != nil {
				return err
			}
			defer p.Close()
			backends, err := readBackends(p)
			if err != nil {
				return err
			}
			return out.print(cmd.OutOrStdout(), backends, func(bool) table { return backendTable(backends) })
		},
	}
	out.addFlag(list)
	cmd.AddCommand(list)
	return cmd
}

func backendTable(backends []backendView) table {
	t := table{
		header: []string{"ID", "SERVICE", "PORT", "PROTOCOL", "ADDRESS", "LOCAL", "SERVING"},
		empty:  "No backends in the datapath.",
	}
	for _, b := range backends {
		port := b.Port
		if port == "" {
			port = "<unnamed>"
		}
		t.rows = append(t.rows, []string{fmt.Sprint(b.ID), b.Service, port, b.Proto, b.Address.String(),
			fmt.Sprint(b.Local), fmt.Sprint(b.Serving)})
	}
	return t
}

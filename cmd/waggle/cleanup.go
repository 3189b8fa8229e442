// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/loader"
)

func newCleanup(g *globals) *cobra.Command {
	var snatPorts string
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every trace of waggle from this node: programs, links, maps, qdiscs, files",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ports, err := control.ParsePortRange(snatPorts)
			if err != nil {
				return fmt.Errorf("--snat-ports: %w", err)
			}
			log := logrus.New()
			log.SetLevel(logrus.WarnLevel) // what is removed is printed below
			removed, err := loader.Cleanup(g.pinDir, logrus.NewEntry(log))
			for _, what := range removed {
				fmt.Fprintln(cmd.OutOrStdout(), "removed", what)
			}
			if err != nil {
				return err
			}
			return errors.Join(control.ReleasePorts(ports), control.ReleaseNAT(), control.RemoveStatus(g.runDir))
		},
	}
	cmd.Flags().StringVar(&snatPorts, "snat-ports", "49152-65535", "the agent's --snat-ports, to be given back to the kernel")
	return cmd
}

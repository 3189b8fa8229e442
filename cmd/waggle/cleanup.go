// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/leftovers"
	"github.com/waggle-lb/waggle/loader"
)

func newCleanup(g *globals) *cobra.Command {
	var snatPorts string
	var kubeProxy bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every trace of waggle from this node, or what kube-proxy has left there",
		Long: "Remove every trace of waggle from this node: programs, links, maps, qdiscs, files. The agent\n" +
			"must not run.\n\n" +
			"With --kube-proxy, remove instead what kube-proxy has left: rules, chains, sets and devices of\n" +
			"its nftables, iptables and IPVS modes. kube-proxy must not run; waggle may, and is left alone.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kubeProxy {
				return cleanupKubeProxy(cmd.OutOrStdout())
			}
			return cleanup(g, snatPorts, cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&snatPorts, "snat-ports", defaultSNATPorts, "the agent's --snat-ports, to be given back to the kernel")
	cmd.Flags().BoolVar(&kubeProxy, "kube-proxy", false, "remove what kube-proxy has left, instead of waggle")
	return cmd
}

func cleanup(g *globals, snatPorts string, w io.Writer) error {
	ports, err := control.ParsePortRange(snatPorts)
	if err != nil {
		return fmt.Errorf("--snat-ports: %w", err)
	}
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel) // what is removed is printed below
	removed, err := loader.Cleanup(g.pinDir, logrus.NewEntry(log))
	for _, what := range removed {
		fmt.Fprintln(w, "removed", what)
	}
	if err != nil {
		return err
	}
	return errors.Join(control.ReleasePorts(g.sysctlDir, ports), control.ReleaseNAT(), control.RemoveStatus(g.runDir))
}

func cleanupKubeProxy(w io.Writer) error {
	report, err := leftovers.Remove()
	for _, what := range report.Removed {
		fmt.Fprintln(w, "removed", what)
	}
	for _, what := range report.Left {
		fmt.Fprintln(w, "left", what)
	}
	return err
}

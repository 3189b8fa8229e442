// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net/netip"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control/leftovers"
	"github.com/waggle-lb/waggle/control/names"
	"github.com/waggle-lb/waggle/control/node"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/control/takeover"
	"github.com/waggle-lb/waggle/loader"
)

func newCleanup(g *globals) *cobra.Command {
	var kubeProxy bool
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove every trace of waggle from this node, or what kube-proxy has left there",
		Long: "Remove every trace of waggle from this node: programs, links, maps, qdiscs, files, reserved\n" +
			"ports, addresses of the loopback device, and the nftables table of connections taken over. The\n" +
			"agent must not run.\n\n" +
			"With --kube-proxy, remove instead what kube-proxy has left: rules, chains, sets and devices of\n" +
			"its nftables, iptables and IPVS modes. kube-proxy must not run; waggle may, and is left alone.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if kubeProxy {
				return cleanupKubeProxy(cmd.OutOrStdout())
			}
			return cleanup(g, cmd.OutOrStdout())
		},
	}
	cmd.Flags().BoolVar(&kubeProxy, "kube-proxy", false, "remove what kube-proxy has left, instead of waggle")
	return cmd
}

// cleanup removes the datapath first, because that fails while an agent runs. It prints a line for
// each thing that it removes.
func cleanup(g *globals, w io.Writer) error {
	log := logrus.New()
	log.SetLevel(logrus.WarnLevel) // what is removed is printed below
	removed, err := loader.Cleanup(g.pinDir, logrus.NewEntry(log))
	printRemoved(w, removed...)
	if err != nil {
		return err
	}
	ports, portsErr := node.ReleasePorts(g.sysctlDir, g.runDir)
	if ports != "" {
		printRemoved(w, "ports "+ports+" from net.ipv4.ip_local_reserved_ports")
	}
	table, natErr := takeover.ReleaseNAT()
	if table != "" {
		printRemoved(w, table)
	}
	addrs, addrsErr := node.HoldOnLoopback([]netip.Addr{names.Listen4, names.Listen6}, nil)
	for _, a := range addrs {
		printRemoved(w, fmt.Sprintf("address %s from the device lo", a))
	}
	files, filesErr := rundir.Remove(g.runDir)
	printRemoved(w, files...)
	return errors.Join(portsErr, natErr, addrsErr, filesErr)
}

func printRemoved(w io.Writer, all ...string) {
	for _, what := range all {
		fmt.Fprintln(w, "removed", what)
	}
}

func cleanupKubeProxy(w io.Writer) error {
	report, err := leftovers.Remove()
	printRemoved(w, report.Removed...)
	for _, what := range report.Left {
		fmt.Fprintln(w, "left", what)
	}
	return err
}

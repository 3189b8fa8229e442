// SPDX-License-Identifier: Apache-2.0

// Command waggle runs the service load balancer of a node, and shows what it does.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/loader"
)

// version is set by the Makefile.
var version = "devel"

// Exit codes, as kubectl's.
const exitFailure = 1

func main() {
	if err := newRoot().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "waggle: "+err.Error())
		os.Exit(exitFailure)
	}
}

// globals are the flags of every subcommand.
type globals struct {
	pinDir    string
	runDir    string
	sysctlDir string
}

func newRoot() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:           "waggle",
		Short:         "eBPF service load balancer for Linux nodes",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.PersistentFlags().StringVar(&g.pinDir, "pin-dir", "/sys/fs/bpf/waggle", "directory in bpffs that holds maps, programs and links")
	root.PersistentFlags().StringVar(&g.runDir, "run-dir", "/run/waggle", "directory that holds the agent's status")
	root.PersistentFlags().StringVar(&g.sysctlDir, "sysctl-dir", "/proc/sys", "directory where the kernel's parameters can be written")
	root.AddCommand(newAgent(g), newService(g), newBackend(g), newAddress(g), newFlow(g), newTop(g), newExplain(g), newMonitor(g), newStatus(g), newBundle(g), newRelease(g), newHandover(g), newCleanup(g), newVersion())
	return root
}

// newGroup makes a command that only has subcommands. It refuses unknown ones, for which cobra
// would only print the help.
func newGroup(use string, aliases []string, short string, subcommands ...*cobra.Command) *cobra.Command {
	cmd := &cobra.Command{
		Use: use, Aliases: aliases, Short: short,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(subcommands...)
	return cmd
}

// fromPins reads something from the pinned maps, whether an agent runs or not.
func fromPins[T any](g *globals, read func(*loader.View) (T, error)) (T, error) {
	p, err := loader.Open(g.pinDir)
	if err != nil {
		var nothing T
		return nothing, err
	}
	defer p.Close()
	return read(p)
}

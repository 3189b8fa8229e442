// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/leftovers"
	"github.com/waggle-lb/waggle/control/takeover"
	"github.com/waggle-lb/waggle/loader"
)

func newHandover(g *globals) *cobra.Command {
	var drain, force bool
	cmd := &cobra.Command{
		Use:   "handover",
		Short: "Hand this node's connections over to the kernel, so that kube-proxy can replace waggle",
		Long: "Hand this node's connections over to the kernel, so that kube-proxy can replace waggle: new\n" +
			"connections belong to kube-proxy from now on, and those that waggle translates go into the kernel's\n" +
			"table of connections. kube-proxy must run, and the agent must not. Afterwards, `waggle cleanup`\n" +
			"breaks no connection. If you start the agent instead, it serves new connections again. On a node\n" +
			"without the datapath there is nothing to do, and the command succeeds.\n\n" +
			"With --drain, waggle keeps its connections, and the command waits for their end.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
			defer stop()
			err := handover(ctx, g, drain, force, cmd.OutOrStdout())
			if errors.Is(err, loader.ErrNotLoaded) { // so that a DaemonSet's pod may run it again on a node that is done
				fmt.Fprintln(cmd.OutOrStdout(), "no connection is left to hand over:", err)
				return nil
			}
			return err
		},
	}
	cmd.Flags().BoolVar(&drain, "drain", false, "keep existing connections, and wait for their end")
	cmd.Flags().BoolVar(&force, "force", false, "hand over even if there are no rules of kube-proxy on this node")
	return cmd
}

// handover fails with loader.ErrNotLoaded if there is no datapath on the node.
func handover(ctx context.Context, g *globals, drain, force bool, w io.Writer) (err error) {
	dp, err := loader.Maintain(g.pinDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dp.Close()) }()
	if !force {
		if err := checkSuccessor(); err != nil {
			return err
		}
	}
	h, err := takeover.NewHandover(dp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, h.Close()) }()
	fmt.Fprintln(w, "new connections now belong to the kernel")
	if drain {
		return drainFlows(ctx, h, w)
	}
	return giveFlows(h, w)
}

// checkSuccessor fails if no rules of kube-proxy are on the node: new connections would not be served.
func checkSuccessor() error {
	seen, err := leftovers.Seen()
	if err != nil {
		return fmt.Errorf("looking for kube-proxy's rules: %w", err)
	}
	if len(seen) == 0 {
		return errors.New("there are no rules of kube-proxy on this node, so new connections would fail: start kube-proxy first (or --force)")
	}
	return nil
}

// handoverTries is how often the command looks for flows that opened meanwhile.
const handoverTries = 3

func giveFlows(h *takeover.Handover, w io.Writer) error {
	for range handoverTries {
		if err := h.Give(); err != nil {
			return err
		}
		if left, err := h.Left(); err != nil || left == 0 {
			break
		}
	}
	fmt.Fprintln(w, "connections handed over:", h.Given)
	left, err := h.Left()
	if err != nil {
		return err
	}
	if left == 0 {
		return nil
	}
	err = fmt.Errorf("%d connections could not be handed over, and break at `waggle cleanup`", left)
	if h.Why != nil {
		err = fmt.Errorf("%w; the first: %w", err, h.Why)
	}
	return err
}

const drainEvery = 2 * time.Second

func drainFlows(ctx context.Context, h *takeover.Handover, w io.Writer) error {
	last := -1
	for {
		left, err := h.Left()
		if err != nil {
			return err
		}
		if left != last {
			fmt.Fprintln(w, "connections left:", left)
		}
		if last = left; left == 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("interrupted with %d connections left: waggle serves them until they end", left)
		case <-time.After(drainEvery):
		}
	}
}

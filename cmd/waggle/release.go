// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control/manifest"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

// releaseTimeout is how long the command waits for the agent, which looks every half second.
const releaseTimeout = 10 * time.Second

func newRelease(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "release",
		Short: "Delete the services that the deletion brake keeps in force",
		Long: "Delete the services that are gone from the agent's manifests, but that its deletion brake keeps in force\n" +
			"(--deletion-brake). `waggle status -o wide` lists them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return release(g, cmd.OutOrStdout()) },
	}
}

func release(g *globals, w io.Writer) error {
	agent, err := status.Read(g.runDir)
	if err != nil {
		return err
	}
	if !loader.Held(agent.PinDir) {
		return errors.New("the agent does not run: start it first")
	}
	count := len(agent.Held)
	if count == 0 {
		_, err := fmt.Fprintln(w, "Nothing is held.")
		return err
	}
	if err := manifest.Release(rundir.Cache(g.runDir)); err != nil {
		return fmt.Errorf("releasing what is held: %w", err)
	}
	for deadline := time.Now().Add(releaseTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if agent, err = status.Read(g.runDir); err == nil && len(agent.Held) == 0 {
			_, err := fmt.Fprintf(w, "Released: %d services.\n", count)
			return err
		}
	}
	return fmt.Errorf("the agent has not released them within %v: see `waggle status`", releaseTimeout)
}

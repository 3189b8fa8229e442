// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/waggle-lb/waggle/control"
	"github.com/waggle-lb/waggle/control/manifest"
)

// releaseTimeout is how long the agent may take to let go: it looks every half second.
const releaseTimeout = 10 * time.Second

func newRelease(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "release",
		Short: "Let go of the services that the deletion brake holds",
		Long: "Let go of the services that are gone from the agent's manifests, but held by its deletion brake\n" +
			"(--deletion-brake). `waggle status -o wide` lists them.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return release(g, cmd.OutOrStdout()) },
	}
}

func release(g *globals, w io.Writer) error {
	status, err := control.ReadStatus(g.runDir)
	if err != nil {
		return err
	}
	if !status.Alive() {
		return errors.New("the agent does not run: start it first")
	}
	count := len(status.Held)
	if count == 0 {
		_, err := fmt.Fprintln(w, "Nothing is held.")
		return err
	}
	if err := manifest.Release(control.CacheDir(g.runDir)); err != nil {
		return fmt.Errorf("releasing what is held: %w", err)
	}
	for deadline := time.Now().Add(releaseTimeout); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if status, err = control.ReadStatus(g.runDir); err == nil && len(status.Held) == 0 {
			_, err := fmt.Fprintf(w, "Released: %d services.\n", count)
			return err
		}
	}
	return fmt.Errorf("the agent has not let go within %v: see `waggle status`", releaseTimeout)
}

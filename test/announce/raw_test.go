// SPDX-License-Identifier: Apache-2.0

package announce

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/status"
)

// TestWithoutCapability: an agent that may not ask the network announces nothing, and warns of it, until it may.
func TestWithoutCapability(t *testing.T) {
	s := newSetup(t, 1, false)
	s.addPod(t, 0, "web")
	s.addService(t, "web")
	script := filepath.Join(t.TempDir(), "waggle")
	check(t, os.WriteFile(script, []byte("#!/bin/sh\nexec setpriv --bounding-set=-net_raw --inh-caps=-net_raw "+waggle+" \"$@\"\n"), 0o755))
	agent := s.agents[0]
	agent.Use(script)
	start(t, agent)
	warned := func(st *status.Status) bool {
		all := fmt.Sprint(st.Warnings)
		return strings.Contains(all, "can't announce some addresses (2)") && strings.Contains(all, "operation not permitted")
	}
	check(t, agent.Await("a warning", warned))
	check(t, agent.Stop())
	agent.Use(waggle)
	start(t, agent)
	for _, addr := range s.addresses(t, agent, "web") {
		s.awaitHolder(t, addr, s.agents)
	}
	check(t, agent.Await("no warning", func(st *status.Status) bool { return !warned(st) }))
}

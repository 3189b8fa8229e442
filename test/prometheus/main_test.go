// SPDX-License-Identifier: Apache-2.0

// Package prometheus has Debian's Prometheus scrape a running agent, and asks it what the dashboards and the
// alerts of deploy/ ask.
package prometheus

import (
	"os/exec"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// binary is the command under test.
var binary string

func TestMain(m *testing.M) { cluster.Main(m, &binary) }

func needs(t *testing.T, command string) {
	t.Helper()
	if _, err := exec.LookPath(command); err != nil {
		t.Skipf("needs %s (Debian: prometheus, nftables)", command)
	}
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

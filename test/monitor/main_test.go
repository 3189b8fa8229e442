// SPDX-License-Identifier: Apache-2.0

// Package monitor watches real traffic through a real agent by `waggle monitor`, and compares what it shows with what
// was sent, and with what the agent's datapath has counted.
package monitor

import (
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// binary is the command under test.
var binary string

func TestMain(m *testing.M) { cluster.Main(m, &binary) }

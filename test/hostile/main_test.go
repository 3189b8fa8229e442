// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"flag"
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// full asks for everything, as `make test-hostile` does.
var full = flag.Bool("full", false, "flood for longer, with more connections, and die at every step")

// spread is how long TestMasqueradeAtRandom takes over its connections at least.
var spread = flag.Duration("spread", 0, "spread the connections of TestMasqueradeAtRandom over so long")

// soak is how long TestSoak lasts, which is left out without it.
var soak = flag.Duration("soak", 0, "churn for so long, and watch what the agent needs")

// binary is the command under test.
var binary string

func TestMain(m *testing.M) { cluster.Main(m, &binary) }

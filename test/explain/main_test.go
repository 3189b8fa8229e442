// SPDX-License-Identifier: Apache-2.0

// Package explain asks `waggle explain` about one packet in each of many situations, on a node with a real agent, and
// compares what it says with testdata.
package explain

import (
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// binary is the command under test.
var binary string

func TestMain(m *testing.M) { cluster.Main(m, &binary) }

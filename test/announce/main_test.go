// SPDX-License-Identifier: Apache-2.0

// Package announce runs agents on nodes of one Ethernet, which announce addresses of load balancers by ARP and neighbour
// discovery, and records every answer on the wire.
package announce

import (
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// waggle is the command under test.
var waggle string

func TestMain(m *testing.M) { cluster.Main(m, &waggle) }

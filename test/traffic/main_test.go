// SPDX-License-Identifier: Apache-2.0

// Package traffic sends real packets through real agents in network namespaces.
package traffic

import (
	"testing"

	"github.com/waggle-lb/waggle/test/cluster"
)

// binary is the command under test.
var binary string

func TestMain(m *testing.M) { cluster.Main(m, &binary) }

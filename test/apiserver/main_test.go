// SPDX-License-Identifier: Apache-2.0

package apiserver_test

import (
	"os"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

func TestMain(m *testing.M) {
	topo.Main()
	os.Exit(m.Run())
}

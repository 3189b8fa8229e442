// SPDX-License-Identifier: Apache-2.0

// Package await lets tests wait for what comes about by itself.
package await

import (
	"testing"
	"time"

	"github.com/waggle-lb/waggle/test/topo"
)

// Until looks every 10 ms until it is done, and ends the test with the last message if that takes longer
// than 20 s, times the patience that tests have on this machine.
func Until(t *testing.T, look func() (message string, done bool)) {
	t.Helper()
	for deadline := time.Now().Add(topo.Patient(20 * time.Second)); ; time.Sleep(10 * time.Millisecond) {
		message, done := look()
		if done {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(message)
		}
	}
}

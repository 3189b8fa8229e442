// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"os"
	"strconv"
	"time"
)

// PatienceVariable names an environment variable: by how much longer than on a usual machine tests
// wait for something before they give up. Emulated machines are slow.
const PatienceVariable = "WAGGLE_PATIENCE"

// Patient is a deadline on this machine.
func Patient(d time.Duration) time.Duration {
	if factor, err := strconv.Atoi(os.Getenv(PatienceVariable)); err == nil && factor > 1 {
		return time.Duration(factor) * d
	}
	return d
}

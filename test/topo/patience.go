// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"os"
	"strconv"
	"time"
)

// PatienceVariable is the environment variable with the factor by which tests wait longer than on a
// usual machine before they give up. Emulated machines are slow.
const PatienceVariable = "WAGGLE_PATIENCE"

// Patient returns a deadline multiplied by that factor.
func Patient(d time.Duration) time.Duration {
	if factor, err := strconv.Atoi(os.Getenv(PatienceVariable)); err == nil && factor > 1 {
		return time.Duration(factor) * d
	}
	return d
}

// SPDX-License-Identifier: Apache-2.0

package cluster

import "os"

// previousVariable names an environment variable that `make test-upgrade` sets.
const previousVariable = "WAGGLE_PREVIOUS"

// PreviousRelease is the path of the command of the previous release this one, as `make
// test-upgrade` builds it from the repository's history. It is empty if it was not built.
func PreviousRelease() string { return os.Getenv(previousVariable) }

// SPDX-License-Identifier: Apache-2.0

//go:build failpoints

package maps

import (
	"os"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// FailpointFile is the environment variable that names a file with a number n. Before its n-th
// write to a map after the file has appeared, the process removes the file and kills itself. Tests
// use it to check what a crash leaves behind.
const FailpointFile = "WAGGLE_FAILPOINT"

var failpoints struct {
	sync.Mutex
	writes int
}

// beforeWrite is called before each change of a map.
func beforeWrite() {
	failpoints.Lock()
	defer failpoints.Unlock()
	file := os.Getenv(FailpointFile)
	text, err := os.ReadFile(file)
	if err != nil {
		failpoints.writes = 0
		return
	}
	failpoints.writes++
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || failpoints.writes < n {
		return
	}
	_ = os.Remove(file)
	_ = unix.Kill(unix.Getpid(), unix.SIGKILL)
	select {} // until the signal arrives
}

// SPDX-License-Identifier: Apache-2.0

package apiserver

import (
	"os"
	"path/filepath"
	"testing"
)

// BinariesVariable names the environment variable with the directory of the
// Kubernetes processes. `make test-cluster` builds them and sets it.
const BinariesVariable = "WAGGLE_KUBERNETES"

// Binaries is the directory of the Kubernetes processes. Without it, or without
// root, the test is skipped.
func Binaries(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(BinariesVariable)
	if dir == "" {
		t.Skipf("%s is not set: see make test-cluster", BinariesVariable)
	}
	if os.Geteuid() != 0 {
		t.Skip("network namespaces need root")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kube-apiserver", "kube-controller-manager", "kube-proxy"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Fatalf("%s: %v", BinariesVariable, err)
		}
	}
	return dir
}

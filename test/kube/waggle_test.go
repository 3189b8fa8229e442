// SPDX-License-Identifier: Apache-2.0

package kube

import "testing"

// startWaggle runs waggle on all nodes, until stop, which leaves nothing of it.
func (s *setup) startWaggle(t *testing.T, services []service) (stop func()) {
	t.Skip("no source yet")
	return func() {}
}

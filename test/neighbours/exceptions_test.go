// SPDX-License-Identifier: Apache-2.0

package neighbours

import "regexp"

// exception is a difference that the contract allows: cells that work with kube-proxy and need not with
// waggle.
type exception struct {
	environment string
	cells       *regexp.Regexp // of the cells' names
	row         int
	says        string
}

var exceptions []exception

// exceptionFor finds the one that covers a cell.
func exceptionFor(environment string, c cell) *exception {
	for i, e := range exceptions {
		if e.environment == environment && e.cells.MatchString(c.String()) {
			return &exceptions[i]
		}
	}
	return nil
}

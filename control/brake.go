// SPDX-License-Identifier: Apache-2.0

package control

import "github.com/waggle-lb/waggle/maps"

// brakeMinimum is how many deletions always pass: the fraction of a few says nothing.
const brakeMinimum = 10

// Brake holds back a mass deletion that looks like a broken source: an emptied directory, a
// truncated list.
type Brake struct {
	// Fraction of the services that one sync may delete; 1 lets everything pass.
	Fraction float64
}

// hold returns the deletions that must not happen now: all of them or none.
func (b Brake) hold(gone []maps.Name, total int) []maps.Name {
	if len(gone) <= brakeMinimum || float64(len(gone)) <= b.Fraction*float64(total) {
		return nil
	}
	return gone
}

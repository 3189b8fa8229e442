// SPDX-License-Identifier: Apache-2.0

package maps

// CountWaits counts how often slots wait for running programs. They still wait.
func CountWaits(s *Slots) *int {
	count, wait := new(int), s.wait
	s.wait = func() error {
		*count++
		return wait()
	}
	return count
}

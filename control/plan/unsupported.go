// SPDX-License-Identifier: Apache-2.0

package plan

import "golang.org/x/sys/unix"

// unsupported says what of a service port the datapath does not do, as sentences for people: a
// wish must not be ignored in silence.
func unsupported(name string, proto uint8) []string {
	if proto == unix.IPPROTO_SCTP {
		return []string{"service " + name + ": SCTP is not supported, its packets pass untouched"}
	}
	return nil
}

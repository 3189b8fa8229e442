// SPDX-License-Identifier: Apache-2.0

package explain

import "net"

// Frame is the packet that a question is about, in a frame for a device with this address. Without an address it
// begins with the IP header, as at a device that has no link layer. Who asks has checked the question.
func Frame(q Question, to net.HardwareAddr) []byte {
	if len(to) == 0 {
		return q.packet()
	}
	return ethernet(to, q.packet())
}

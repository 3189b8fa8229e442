// SPDX-License-Identifier: Apache-2.0

package explain

import "net"

// Frame returns the packet of a question in a frame for a device with this address. Without an address it begins
// with the IP header, as at a device without a link layer. The caller has called Question.Check.
func Frame(q Question, to net.HardwareAddr) []byte {
	if len(to) == 0 {
		return q.packet()
	}
	return ethernet(to, q.packet())
}

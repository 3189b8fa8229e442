// SPDX-License-Identifier: Apache-2.0

package topo

import "fmt"

// session is an open socket of a client.
type session interface {
	// exchange sends bytes, and receives and verifies the echo.
	exchange(size int, reply *Reply) error
	close() error
}

func openSession(op operation, r Request, reply *Reply) (session, error) {
	switch op {
	case opTCP:
		return openTCP(r, reply)
	case opUDPConnected:
		return openUDP(r, true, reply)
	case opUDPUnconnected:
		return openUDP(r, false, reply)
	}
	return nil, fmt.Errorf("no such session: %q", op)
}

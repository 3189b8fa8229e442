// SPDX-License-Identifier: Apache-2.0

// Package ipvs reads the connections that the kernel's virtual servers translate, as the text that
// net/netfilter/ipvs/ip_vs_conn.c writes to /proc/net/ip_vs_conn. There is no other way to list
// them. It knows TCP, UDP and SCTP.
package ipvs

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"time"
)

// Connection is one that a virtual server has led to a real server.
type Connection struct {
	Proto   uint8          // IPPROTO_*
	Client  netip.AddrPort // before any masquerading: the table does not know of it
	Virtual netip.AddrPort // where the client sends to
	Real    netip.AddrPort
	State   State
	Expires time.Duration // until the entry goes if no packet comes, in whole seconds
}

// State is how far a connection has got.
type State uint8

// A state of UDP is always Open.
const (
	Open       State = iota // it is opening, or neither side has begun to close it
	HalfClosed              // one side has sent its FIN, or SHUTDOWN
	Closed                  // both sides have
	Reset                   // it ended otherwise
)

// table belongs to the network namespace of the thread that opens it.
const table = "/proc/thread-self/net/ip_vs_conn"

// lineSize is the length of the longest line that is understood. The kernel's are shorter: 160 bytes, and 270
// for the data of a persistence engine.
const lineSize = 4096

// Each calls fn with each connection in the network namespace of the calling thread: with none where the kernel
// has no IPVS. It reads a page at a time, so that memory does not depend on how many there are. Connections that
// come or go meanwhile may be missed. Lines that can't be understood are counted, and left out.
func Each(fn func(Connection)) (bad int, err error) {
	f, err := os.Open(table)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("IPVS' connections: %w", err)
	}
	defer f.Close()
	if bad, err = read(f, fn); err != nil {
		return bad, fmt.Errorf("IPVS' connections: %w", err)
	}
	return bad, nil
}

// read reads the lines of the table. The first is a heading.
func read(r io.Reader, fn func(Connection)) (bad int, err error) {
	lines := bufio.NewReaderSize(r, lineSize)
	for heading := true; ; heading = false {
		line, err := lines.ReadSlice('\n')
		if errors.Is(err, io.EOF) && len(line) == 0 {
			return bad, nil
		}
		long := errors.Is(err, bufio.ErrBufferFull)
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = lines.ReadSlice('\n')
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return bad, err
		}
		if heading {
			continue
		}
		c, is, err := parse(line)
		switch {
		case long || err != nil:
			bad++
		case is:
			fn(c)
		}
	}
}

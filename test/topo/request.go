// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Request says what a client does.
type Request struct {
	To netip.AddrPort
	// Source and SourcePort are the client's own address and port. The kernel
	// chooses those that are zero.
	Source     netip.Addr
	SourcePort uint16
	// Mapped uses an IPv6 socket for an IPv4 destination, as many programs do.
	Mapped bool
	// Size is the size of a POST's body, or of each datagram, in bytes. A
	// datagram too small for the server's description of itself gets a larger
	// reply.
	Size int
	// Count is the number of datagrams. The client waits for the reply to each;
	// 0 is 1.
	Count int
	// KeepAlive uses the connection of an earlier such request to the same
	// address, if it is still open.
	KeepAlive bool
	// Reset closes TCP with a reset, so that a chosen source port is free at
	// once.
	Reset bool
	// SCTP uses SCTP in place of TCP. See HaveSCTP.
	SCTP bool
	// ByName makes a connected UDP socket name its peer with each datagram, as
	// many programs do.
	ByName bool
	// MPTCP uses an MPTCP socket in place of a TCP socket.
	MPTCP bool
	// Timeout is the timeout of each exchange; 0 is 5 seconds. On slow machines
	// it is longer: see Patient.
	Timeout time.Duration
}

func (r Request) timeout() time.Duration {
	if r.Timeout > 0 {
		return Patient(r.Timeout)
	}
	return Patient(5 * time.Second)
}

func (r Request) count() int { return max(r.Count, 1) }

// Reply is the result of a request.
type Reply struct {
	// Pod is the name of the host that answered; if there are several, the last
	// one.
	Pod string
	// Pods are the hosts that answered each datagram.
	Pods []string
	// Remote is the client as the server saw it.
	Remote netip.AddrPort
	// Server is the server's end as the server saw it.
	Server netip.AddrPort
	// Local and Peer are the results of getsockname and getpeername after
	// connect.
	Local netip.AddrPort
	Peer  netip.AddrPort
	// Source is the source of the last datagram, as recvfrom returned it.
	Source netip.AddrPort
	// Bytes is the number of bytes that were echoed, and verified.
	Bytes int
	// Reused: an earlier request's connection was used.
	Reused bool
	// Err is the error's text. Errno is its name ("ECONNREFUSED") if it came
	// from the kernel. Timeout: the client gave up waiting.
	Err     string
	Errno   string
	Timeout bool
	Elapsed time.Duration
}

// OK reports whether the request succeeded.
func (r Reply) OK() bool { return r.Err == "" }

// Error is the request's failure, or nil.
func (r Reply) Error() error {
	if r.OK() {
		return nil
	}
	return errors.New(r.Err)
}

// String formats the reply for messages of tests.
func (r Reply) String() string {
	var s strings.Builder
	if r.OK() {
		fmt.Fprintf(&s, "%s answered", r.Pod)
	} else {
		fmt.Fprintf(&s, "failed: %s", r.Err)
	}
	fmt.Fprintf(&s, " after %s; ", r.Elapsed.Round(time.Microsecond))
	fmt.Fprintf(&s, "client %s -> %s, server saw %s -> %s", r.Local, r.Peer, r.Remote, r.Server)
	if r.Source.IsValid() {
		fmt.Fprintf(&s, ", reply from %s", r.Source)
	}
	return s.String()
}

func (r *Reply) hear(h hello) {
	r.Pod, r.Remote, r.Server = h.Pod, h.Remote, h.Local
}

func (r *Reply) fail(err error) {
	r.Err = err.Error()
	var errno syscall.Errno
	var timeout net.Error
	switch {
	case errors.As(err, &errno):
		r.Errno = unix.ErrnoName(errno)
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		r.Timeout = true
	case errors.As(err, &timeout):
		r.Timeout = timeout.Timeout()
	}
}

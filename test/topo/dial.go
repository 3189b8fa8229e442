// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// dial makes a socket as requested and connects it. The net package's dialers
// would neither pass a v4-mapped address to an IPv6 socket nor leave out the
// connect.
func dial(r Request, kind int, connected bool) (net.Conn, error) {
	fd, err := r.socket(kind)
	if err != nil {
		return nil, err
	}
	// FileConn below duplicates it.
	file := os.NewFile(uintptr(fd), "socket")
	defer file.Close()
	if err := r.prepare(fd, kind); err != nil {
		return nil, err
	}
	if connected {
		if err := connect(fd, r.sockaddr(r.To), r.timeout()); err != nil {
			return nil, fmt.Errorf("connect to %s: %w", r.To, err)
		}
	}
	return net.FileConn(file)
}

func (r Request) socket(kind int) (int, error) {
	if r.SCTP {
		return sctpSocket(r.family())
	}
	protocol := 0
	if r.MPTCP {
		protocol = unix.IPPROTO_MPTCP
	}
	fd, err := unix.Socket(r.family(), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	return fd, os.NewSyscallError("socket", err)
}

func (r Request) family() int {
	if r.To.Addr().Is4() && !r.Mapped {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func (r Request) sockaddr(a netip.AddrPort) unix.Sockaddr {
	if r.family() == unix.AF_INET {
		sa := &unix.SockaddrInet4{Port: int(a.Port())}
		if a.Addr().Is4() {
			sa.Addr = a.Addr().As4()
		}
		return sa
	}
	sa := &unix.SockaddrInet6{Port: int(a.Port())}
	if a.Addr().IsValid() {
		sa.Addr = a.Addr().As16()
	}
	return sa
}

func (r Request) prepare(fd, kind int) error {
	if r.Reset && kind == unix.SOCK_STREAM {
		if err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}); err != nil {
			return os.NewSyscallError("SO_LINGER", err)
		}
	}
	if !r.Source.IsValid() && r.SourcePort == 0 {
		return nil
	}
	if kind == unix.SOCK_STREAM {
		// A port in TIME_WAIT may be used again, towards another server.
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			return os.NewSyscallError("SO_REUSEADDR", err)
		}
	}
	if err := unix.Bind(fd, r.sockaddr(netip.AddrPortFrom(r.Source, r.SourcePort))); err != nil {
		return fmt.Errorf("bind to source %s, port %d: %w", r.Source, r.SourcePort, err)
	}
	return nil
}

func connect(fd int, to unix.Sockaddr, timeout time.Duration) error {
	err := unix.Connect(fd, to)
	if err != unix.EINPROGRESS {
		return err
	}
	for deadline := time.Now().Add(timeout); ; {
		left := time.Until(deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(poll, int(left.Milliseconds())+1)
		if err != nil && err != unix.EINTR {
			return err
		}
		if n > 0 {
			return connectResult(fd)
		}
	}
}

func connectResult(fd int) error {
	errno, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil {
		return err
	}
	if errno != 0 {
		return unix.Errno(errno)
	}
	return nil
}

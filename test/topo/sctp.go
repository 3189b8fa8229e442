// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// KernelSpeaksSCTP reports whether the module is loaded. The kernel then answers packets that no
// socket receives.
func KernelSpeaksSCTP() bool {
	_, err := os.Stat("/proc/net/sctp")
	return err == nil
}

// HaveSCTP reports whether the kernel has SCTP's sockets. If they are in a module, the call loads
// it.
func HaveSCTP() bool {
	fd, err := sctpSocket(unix.AF_INET)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// sctpSocket makes a socket in TCP's style. It has one family: an association of both sends
// addresses to its peer, which no translator changes.
func sctpSocket(family int) (int, error) {
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.IPPROTO_SCTP)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	if family == unix.AF_INET6 {
		if err := unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 1); err != nil {
			return -1, errors.Join(os.NewSyscallError("IPV6_V6ONLY", err), unix.Close(fd))
		}
	}
	return fd, nil
}

func listenSCTP(port uint16, report func(error), serve func(net.Listener) error) error {
	for _, any := range []unix.Sockaddr{&unix.SockaddrInet4{Port: int(port)}, &unix.SockaddrInet6{Port: int(port)}} {
		family := unix.AF_INET
		if _, v6 := any.(*unix.SockaddrInet6); v6 {
			family = unix.AF_INET6
		}
		fd, err := sctpSocket(family)
		if err != nil {
			return err
		}
		// FileListener below duplicates it.
		file := os.NewFile(uintptr(fd), "socket")
		defer file.Close()
		if err := unix.Bind(fd, any); err != nil {
			return os.NewSyscallError("bind", err)
		}
		if err := unix.Listen(fd, unix.SOMAXCONN); err != nil {
			return os.NewSyscallError("listen", err)
		}
		l, err := net.FileListener(file) // it only checks the type, which is TCP's
		if err != nil {
			return err
		}
		go func() { report(serve(l)) }()
	}
	return nil
}

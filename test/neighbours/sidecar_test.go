// SPDX-License-Identifier: Apache-2.0

package neighbours

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A sidecar does what Envoy does in a pod of Istio's: a connection that was redirected to it goes on to
// where its client meant it to go, which the kernel reports. Out of the pod it lets only connections to
// addresses that the mesh knows (outboundTrafficPolicy: REGISTRY_ONLY).

// sidecarVariable names the environment variable that makes this process a sidecar: what it knows.
const sidecarVariable = "WAGGLE_NEIGHBOURS_SIDECAR"

// sidecarUser is the user that the pod's rules let connect.
const sidecarUser = 1337

const (
	outboundPort = 15001
	inboundPort  = 15006
)

// Where the sidecar connects to its pod from, by which the rules know it.
var (
	sidecarSource4 = netip.MustParseAddr("127.0.0.6")
	sidecarSource6 = netip.MustParseAddr("::6")
)

// sidecarMain does the work of a sidecar, and exits, if this process was started as one.
func sidecarMain() {
	text, found := os.LookupEnv(sidecarVariable)
	if !found {
		return
	}
	known, err := parseRegistry(text)
	if err == nil {
		err = serveSidecar(known)
	}
	fmt.Fprintf(os.Stderr, "sidecar: %v\n", err)
	os.Exit(1)
}

func serveSidecar(known map[netip.AddrPort]bool) error {
	failed := make(chan error)
	for _, network := range []string{"tcp4", "tcp6"} {
		for _, port := range []int{outboundPort, inboundPort} {
			l, err := net.ListenTCP(network, &net.TCPAddr{Port: port})
			if err != nil {
				return err
			}
			go func() { failed <- accept(l, port == inboundPort, known) }()
		}
	}
	if err := ready(); err != nil {
		return err
	}
	return <-failed
}

func accept(l *net.TCPListener, inbound bool, known map[netip.AddrPort]bool) error {
	for {
		conn, err := l.AcceptTCP()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			to, err := originalDestination(conn)
			if err != nil || !inbound && !known[to] {
				return // the client sees the end
			}
			dialer := net.Dialer{}
			if inbound {
				dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(sidecarSource(to), 0))
			}
			if next, err := dialer.Dial("tcp", to.String()); err == nil {
				splice(conn, next.(*net.TCPConn))
			}
		}()
	}
}

func sidecarSource(to netip.AddrPort) netip.Addr {
	if to.Addr().Is4() {
		return sidecarSource4
	}
	return sidecarSource6
}

// splice copies both ways until both have ended.
func splice(a, b *net.TCPConn) {
	defer b.Close()
	done := make(chan struct{})
	go func() {
		_, _ = io.Copy(b, a) // either end shows the other what became of it
		_ = b.CloseWrite()
		close(done)
	}()
	_, _ = io.Copy(a, b)
	_ = a.CloseWrite()
	<-done
}

// originalDestination asks the kernel where a redirected connection was meant to go.
func originalDestination(conn *net.TCPConn) (out netip.AddrPort, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return out, err
	}
	level, v6 := uintptr(unix.SOL_IP), conn.LocalAddr().(*net.TCPAddr).IP.To4() == nil
	if v6 {
		level = unix.SOL_IPV6
	}
	var addr unix.RawSockaddrInet6 // has room for both families
	size := uint32(unsafe.Sizeof(addr))
	var errno unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, errno = unix.Syscall6(unix.SYS_GETSOCKOPT, fd, level, unix.SO_ORIGINAL_DST,
			uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)), 0)
	})
	if err != nil {
		return out, err
	}
	if errno != 0 {
		return out, os.NewSyscallError("SO_ORIGINAL_DST", errno)
	}
	port := binary.BigEndian.Uint16((*[2]byte)(unsafe.Pointer(&addr.Port))[:])
	if v6 {
		return netip.AddrPortFrom(netip.AddrFrom16(addr.Addr), port), nil
	}
	inet4 := (*unix.RawSockaddrInet4)(unsafe.Pointer(&addr))
	return netip.AddrPortFrom(netip.AddrFrom4(inet4.Addr), port), nil
}

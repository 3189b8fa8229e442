// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/test/topo"
)

// The clients' operations to measure first packets, and the effect of changes.
const (
	doFirstTCP = "first-tcp" // connect, a byte, a byte back
	doFirstUDP = "first-udp" // a datagram of a new socket, and one back
	doFollow   = "follow"    // connect repeatedly, until another endpoint answers
)

const (
	followLimit = 5 * time.Minute
	// A request without an answer counts as one second: a client would send again.
	answerLimit = time.Second
)

// followEvery is how long a client waits between two connections. It is no time.Sleep, which takes a millisecond more
// where no other goroutine runs.
var followEvery = unix.NsecToTimespec(100_000)

var answerTimeval = unix.NsecToTimeval(answerLimit.Nanoseconds())

// monotonic is the time in nanoseconds of a clock that all processes share.
func monotonic() float64 {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		panic(err) // every kernel has it
	}
	return float64(ts.Nano())
}

// first returns p50 and p99 of the time to the first byte of the answer, the number of sockets, and
// how many of them had no answer in time.
func (r socketRequest) first() ([]float64, error) {
	kind := unix.SOCK_STREAM
	if r.What == doFirstUDP {
		kind = unix.SOCK_DGRAM
	}
	var all []float64
	lost := 0
	for i, began := 0, time.Now(); time.Since(began) < r.For; i++ {
		started := monotonic()
		fd, _, err := askByte(kind, r.Among[i%len(r.Among)])
		all = append(all, monotonic()-started)
		if errors.Is(err, unix.EAGAIN) {
			lost++
			continue
		}
		if err == nil {
			err = unix.Close(fd)
		}
		if err != nil {
			return nil, err
		}
	}
	if 2*lost > len(all) {
		return nil, fmt.Errorf("%d of %d were not answered", lost, len(all))
	}
	return []float64{quantile(all, 0.5), quantile(all, 0.99), float64(len(all)), float64(lost)}, nil
}

// follow returns when the answer of the wanted endpoint came.
func (r socketRequest) follow() (float64, error) {
	for began := time.Now(); time.Since(began) < followLimit; _ = unix.Nanosleep(&followEvery, nil) {
		fd, from, err := askByte(unix.SOCK_STREAM, r.To)
		if err != nil {
			return 0, err
		}
		now := monotonic()
		if err := unix.Close(fd); err != nil {
			return 0, err
		}
		if from == r.Want {
			return now, nil
		}
	}
	return 0, fmt.Errorf("%s never led to another endpoint", r.To)
}

// askByte opens a socket, and exchanges a byte.
func askByte(kind int, to netip.AddrPort) (fd int, answer byte, err error) {
	if fd, err = unix.Socket(unix.AF_INET, kind|unix.SOCK_CLOEXEC, 0); err != nil {
		return -1, 0, err
	}
	err = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &answerTimeval)
	if kind == unix.SOCK_STREAM {
		// A reset instead of a FIN: no ports stay in TIME_WAIT.
		err = errors.Join(err, unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
			unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1))
	}
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().As4()})
	}
	b := []byte{0}
	if err == nil {
		_, err = unix.Write(fd, b)
	}
	if err == nil {
		_, err = unix.Read(fd, b)
		for err == unix.EINTR { // the kernel does not restart a read with a timeout
			_, err = unix.Read(fd, b)
		}
	}
	if err != nil {
		return -1, 0, fmt.Errorf("%s: %w", to, errors.Join(err, unix.Close(fd)))
	}
	return fd, b[0], nil
}

// serveByte makes a pod answer with one byte, which identifies it, until the listeners are closed.
func serveByte(pod *topo.Pod, server byte) (closeAll func() error, err error) {
	var l net.Listener
	var datagrams net.PacketConn
	at := netip.AddrPortFrom(pod.IP4, targetPort).String()
	err = pod.Do(func() (err error) {
		if l, err = net.Listen("tcp", at); err != nil {
			return err
		}
		if datagrams, err = net.ListenPacket("udp", at); err != nil {
			err = errors.Join(err, l.Close())
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	go serveAll(l, func(conn net.Conn) {
		if _, err := io.ReadFull(conn, []byte{0}); err == nil {
			_, _ = conn.Write([]byte{server})
		}
		_, _ = io.Copy(io.Discard, conn) // until a reset
	})
	go func() {
		for b := []byte{0}; ; {
			_, from, err := datagrams.ReadFrom(b)
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				_, _ = datagrams.WriteTo([]byte{server}, from)
			}
		}
	}()
	return func() error { return errors.Join(l.Close(), datagrams.Close()) }, nil
}

// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

type udpSession struct {
	conn      *net.UDPConn
	to        netip.AddrPort
	connected bool
	byName    bool
	timeout   time.Duration
	sent      io.Reader
}

func openUDP(r Request, connected bool, reply *Reply) (session, error) {
	conn, err := dial(r, unix.SOCK_DGRAM, connected)
	if err != nil {
		return nil, err
	}
	s := &udpSession{
		conn: conn.(*net.UDPConn), to: r.To, connected: connected, byName: r.ByName,
		timeout: r.timeout(), sent: pattern(rand.Uint64()),
	}
	s.describe(reply)
	return s, nil
}

func (s *udpSession) describe(reply *Reply) {
	reply.Local, reply.Peer = localNow(s.conn), addrPort(s.conn.RemoteAddr())
}

// localNow asks the kernel: an unconnected socket gets its port when it first
// sends, and the net package keeps the earlier value.
func localNow(conn *net.UDPConn) netip.AddrPort {
	var local netip.AddrPort
	raw, err := conn.SyscallConn()
	if err != nil {
		return local
	}
	_ = raw.Control(func(fd uintptr) { // fails only if closed
		switch sa, _ := unix.Getsockname(int(fd)); sa := sa.(type) {
		case *unix.SockaddrInet4:
			local = netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
		case *unix.SockaddrInet6:
			local = netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
		}
	})
	return local
}

func (s *udpSession) exchange(size int, reply *Reply) error {
	request := make([]byte, size)
	if _, err := io.ReadFull(s.sent, request); err != nil {
		return err
	}
	if err := s.conn.SetDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	err := s.send(request)
	s.describe(reply)
	if err != nil {
		return fmt.Errorf("send %d bytes to %s: %w", size, s.to, err)
	}
	if err := s.receive(request, reply); err != nil {
		return err
	}
	reply.Bytes += size
	reply.Pods = append(reply.Pods, reply.Pod)
	return nil
}

func (s *udpSession) send(request []byte) error {
	if s.connected && s.byName {
		return s.sendByName(request)
	}
	if s.connected {
		_, err := s.conn.Write(request)
		return err
	}
	_, err := s.conn.WriteToUDPAddrPort(request, s.to)
	return err
}

// sendByName avoids the net package, which refuses this.
func (s *udpSession) sendByName(request []byte) error {
	raw, err := s.conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Write(func(fd uintptr) bool {
		failed = unix.Sendto(int(fd), request, 0, Request{To: s.to}.sockaddr(s.to))
		return failed != unix.EAGAIN
	})
	return errors.Join(err, failed)
}

// receive waits for the reply to request, and skips late replies to earlier
// ones.
func (s *udpSession) receive(request []byte, reply *Reply) error {
	buffer := make([]byte, 1<<16)
	var odd error
	for {
		n, source, err := s.conn.ReadFromUDPAddrPort(buffer)
		if err != nil {
			return errors.Join(fmt.Errorf("receive: %w", err), odd)
		}
		h, err := checkDatagram(request, buffer[:n])
		if err != nil {
			odd = fmt.Errorf("%d bytes from %s: %w", n, source, err)
			continue
		}
		reply.hear(h)
		reply.Source = unmap(source)
		return nil
	}
}

func checkDatagram(request, answer []byte) (hello, error) {
	var h hello
	line, rest, _ := bytes.Cut(answer, []byte{'\n'})
	if err := json.Unmarshal(line, &h); err != nil {
		return h, err
	}
	if h.Len != len(request) || h.CRC != crc32.ChecksumIEEE(request) {
		return h, errors.New("the server received another request")
	}
	skip := min(len(line)+1, len(request))
	if !bytes.Equal(rest, request[skip:]) {
		return h, errors.New("echo differs")
	}
	return h, nil
}

func (s *udpSession) close() error { return s.conn.Close() }

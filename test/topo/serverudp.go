// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"errors"
	"fmt"
	"hash/crc32"
	"net"
	"net/netip"
	"os"

	"golang.org/x/sys/unix"
)

func (s serverConfig) listenUDP(port uint16, report func(error)) error {
	for _, network := range []string{"udp4", "udp6"} {
		conn, err := net.ListenUDP(network, &net.UDPAddr{Port: int(port)})
		if err != nil {
			return err
		}
		if err := askForDestination(conn, network); err != nil {
			return err
		}
		go func() { report(s.serveUDP(conn)) }()
	}
	return nil
}

// askForDestination makes the kernel report each datagram's destination, which
// must be the reply's source. On a host with several addresses, or with a
// service address on lo, the kernel would choose another one.
func askForDestination(conn *net.UDPConn, network string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	level, option := unix.IPPROTO_IP, unix.IP_PKTINFO
	if network == "udp6" {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, 1) })
	return errors.Join(err, failed)
}

func (s serverConfig) serveUDP(conn *net.UDPConn) error {
	request, control := make([]byte, 1<<16), make([]byte, 256)
	port := addrPort(conn.LocalAddr()).Port()
	for {
		n, nc, _, remote, err := conn.ReadMsgUDPAddrPort(request, control)
		if err != nil {
			return err
		}
		local, err := destination(control[:nc])
		if err != nil {
			return err
		}
		reply := s.datagram(request[:n], unmap(remote), netip.AddrPortFrom(local, port))
		// If a reply can't be sent, the client notices.
		if _, _, err := conn.WriteMsgUDPAddrPort(reply, replyFrom(local), remote); err != nil {
			fmt.Fprintf(os.Stderr, "reply to %s: %v\n", remote, err)
		}
	}
}

// datagram makes an answer of the request's size, so that the test chooses the
// size of a reply.
func (s serverConfig) datagram(request []byte, remote, local netip.AddrPort) []byte {
	greeting := hello{Pod: s.Name, Remote: remote, Local: local, Len: len(request), CRC: crc32.ChecksumIEEE(request)}
	reply := append(greeting.encode(), '\n')
	if len(reply) < len(request) {
		reply = append(reply, request[len(reply):]...)
	}
	return reply
}

func destination(control []byte) (netip.Addr, error) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO:
			return netip.AddrFrom4([4]byte(m.Data[8:12])), nil // ipi_addr
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO:
			return netip.AddrFrom16([16]byte(m.Data[:16])), nil // ipi6_addr
		}
	}
	return netip.Addr{}, errors.New("datagram without its destination")
}

func replyFrom(local netip.Addr) []byte {
	if local.Is4() {
		return unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: local.As4()})
	}
	return unix.PktInfo6(&unix.Inet6Pktinfo{Addr: local.As16()})
}

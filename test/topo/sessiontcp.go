// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"time"

	"golang.org/x/sys/unix"
)

type tcpSession struct {
	conn    net.Conn
	reader  *bufio.Reader
	timeout time.Duration
	hello   hello
	sent    io.Reader
	echoed  io.Reader
}

func openTCP(r Request, reply *Reply) (session, error) {
	conn, err := dial(r, unix.SOCK_STREAM, true)
	if err != nil {
		return nil, err
	}
	seed := rand.Uint64()
	s := &tcpSession{
		conn: conn, reader: bufio.NewReader(conn), timeout: r.timeout(),
		sent: pattern(seed), echoed: pattern(seed),
	}
	if err := s.greet(); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	s.describe(reply)
	return s, nil
}

func (s *tcpSession) greet() error {
	if err := s.conn.SetDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	line, err := s.reader.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("read greeting: %w", err)
	}
	return json.Unmarshal(line, &s.hello)
}

func (s *tcpSession) describe(reply *Reply) {
	reply.hear(s.hello)
	reply.Local, reply.Peer = addrPort(s.conn.LocalAddr()), addrPort(s.conn.RemoteAddr())
}

func (s *tcpSession) exchange(size int, reply *Reply) error {
	s.describe(reply)
	if err := s.conn.SetDeadline(time.Now().Add(s.timeout)); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := io.CopyN(s.conn, s.sent, int64(size))
		sent <- err
	}()
	err := verify(s.reader, s.echoed, size)
	if err := errors.Join(<-sent, err); err != nil {
		return err
	}
	reply.Bytes += size
	return nil
}

func (s *tcpSession) close() error { return s.conn.Close() }

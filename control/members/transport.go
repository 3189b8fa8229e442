// SPDX-License-Identifier: Apache-2.0

package members

import (
	"errors"
	"net"
	"sync"

	"github.com/hashicorp/memberlist"
)

// Limits of connections that come in. memberlist reads up to 20 MiB of each into memory before it knows whether the
// other end has the key.
const (
	maxStreamBytes   = 32 << 20 // of all connections that are open
	maxStreams       = 1024
	maxStreamsOfHost = 128
)

var errTooMuch = errors.New("the connections to the members' port have too much in memory")

// transport is memberlist's, with these limits.
type transport struct {
	*memberlist.NetTransport
	accepted chan net.Conn

	mu    sync.Mutex
	hosts map[string]int // connections, by address
	open  int
	bytes int
}

// limit puts the limits before a transport.
func limit(inner *memberlist.NetTransport) *transport {
	return &transport{NetTransport: inner, accepted: make(chan net.Conn), hosts: map[string]int{}}
}

// run passes connections on until stop is closed. Those beyond the limits are closed.
func (t *transport) run(stop <-chan struct{}) {
	for {
		var conn net.Conn
		select {
		case <-stop:
			return
		case conn = <-t.NetTransport.StreamCh():
		}
		s := t.admit(conn)
		if s == nil {
			_ = conn.Close()
			continue
		}
		select {
		case <-stop:
			_ = s.Close()
			return
		case t.accepted <- s:
		}
	}
}

// StreamCh is part of memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.accepted }

// admit counts a connection; nil: there are too many.
func (t *transport) admit(conn net.Conn) *stream {
	host, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open >= maxStreams || t.hosts[host] >= maxStreamsOfHost {
		return nil
	}
	t.open++
	t.hosts[host]++
	return &stream{Conn: conn, of: t, host: host}
}

// stream is a connection that has come in.
type stream struct {
	net.Conn
	of    *transport
	host  string
	bytes int // that have been read; t.mu guards it
	ended bool
}

// Read is part of net.Conn.
func (s *stream) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.of.mu.Lock()
	defer s.of.mu.Unlock()
	if s.of.bytes+n > maxStreamBytes {
		return 0, errTooMuch
	}
	s.of.bytes += n
	s.bytes += n
	return n, err
}

// Close is part of net.Conn.
func (s *stream) Close() error {
	s.of.mu.Lock()
	if !s.ended {
		s.ended = true
		s.of.bytes -= s.bytes
		s.of.open--
		if s.of.hosts[s.host]--; s.of.hosts[s.host] == 0 {
			delete(s.of.hosts, s.host)
		}
	}
	s.of.mu.Unlock()
	return s.Conn.Close()
}

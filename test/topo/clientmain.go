// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

type operation string

const (
	opGet      operation = "get"
	opPost     operation = "post"
	opConnect  operation = "connect"
	opExchange operation = "exchange" // on an open session
	opClose    operation = "close"

	// These open a session. It is closed after Count exchanges unless the order
	// keeps it.
	opTCP            operation = "tcp"
	opUDPConnected   operation = "udp-connected"
	opUDPUnconnected operation = "udp-unconnected"
)

// order is a line that a client process reads; answer is one that it writes.
type order struct {
	ID      int
	Op      operation
	Session int  // of opExchange and opClose
	Keep    bool // open a session, with the order's ID
	Request Request
}

type answer struct {
	ID    int
	Reply Reply
}

// clientProcess executes orders, several at a time.
type clientProcess struct {
	http *httpClients

	mu       sync.Mutex
	answers  *json.Encoder
	sessions map[int]session
}

func clientMain(orders io.Reader, answers io.Writer) error {
	c := &clientProcess{
		http:     newHTTPClients(),
		answers:  json.NewEncoder(answers),
		sessions: map[int]session{},
	}
	decoder := json.NewDecoder(orders)
	for {
		var o order
		if err := decoder.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		go c.handle(o)
	}
}

func (c *clientProcess) handle(o order) {
	var reply Reply
	start := time.Now()
	err := c.do(o, &reply)
	reply.Elapsed = time.Since(start)
	if err != nil {
		reply.fail(err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.answers.Encode(answer{ID: o.ID, Reply: reply}) // fails if the parent is gone, and then this process ends, too
}

func (c *clientProcess) do(o order, reply *Reply) error {
	switch o.Op {
	case opGet:
		return c.http.do(o.Request, http.MethodGet, reply)
	case opPost:
		return c.http.do(o.Request, http.MethodPost, reply)
	case opConnect:
		return tryConnect(o.Request, reply)
	case opExchange, opClose:
		return c.useSession(o, reply)
	}
	s, err := openSession(o.Op, o.Request, reply)
	if err != nil {
		return err
	}
	if o.Keep {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.sessions[o.ID] = s
		return nil
	}
	for range o.Request.count() {
		if err := s.exchange(o.Request.Size, reply); err != nil {
			return errors.Join(err, s.close())
		}
	}
	return s.close()
}

func (c *clientProcess) useSession(o order, reply *Reply) error {
	c.mu.Lock()
	s, ok := c.sessions[o.Session]
	if o.Op == opClose {
		delete(c.sessions, o.Session)
	}
	c.mu.Unlock()
	if !ok {
		return fmt.Errorf("session %d: %w", o.Session, errClosed)
	}
	if o.Op == opClose {
		return s.close()
	}
	if u, ok := s.(*udpSession); ok && o.Request.To.IsValid() {
		u.to = o.Request.To
	}
	for range o.Request.count() {
		if err := s.exchange(o.Request.Size, reply); err != nil {
			return err
		}
	}
	return nil
}

func tryConnect(r Request, reply *Reply) error {
	conn, err := dial(r, unix.SOCK_STREAM, true)
	if err != nil {
		return err
	}
	reply.Local, reply.Peer = addrPort(conn.LocalAddr()), addrPort(conn.RemoteAddr())
	return conn.Close()
}

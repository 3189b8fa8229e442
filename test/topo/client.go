// SPDX-License-Identifier: Apache-2.0

package topo

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"time"
)

// Client is a client process in a host's network namespace and cgroup. Its
// methods may be called concurrently.
type Client struct {
	child *child

	mu      sync.Mutex
	lastID  int
	pending map[int]chan Reply
	dead    error
	ended   chan struct{}
}

// Client starts a client process.
func (h *Host) Client() (*Client, error) {
	child, err := h.startRole(clientRole, nil)
	if err != nil {
		return nil, err
	}
	c := &Client{child: child, pending: map[int]chan Reply{}, ended: make(chan struct{})}
	go c.receive()
	return c, nil
}

// Get makes an HTTP request.
func (c *Client) Get(r Request) Reply { return c.do(order{Op: opGet, Request: r}) }

// Post sends Size bytes with HTTP and verifies that they are echoed.
func (c *Client) Post(r Request) Reply { return c.do(order{Op: opPost, Request: r}) }

// Connect opens a TCP connection and closes it.
func (c *Client) Connect(r Request) Reply { return c.do(order{Op: opConnect, Request: r}) }

// UDPConnected exchanges Count datagrams through one connected socket.
func (c *Client) UDPConnected(r Request) Reply { return c.do(order{Op: opUDPConnected, Request: r}) }

// UDPUnconnected exchanges Count datagrams through one socket with sendto and
// recvfrom.
func (c *Client) UDPUnconnected(r Request) Reply {
	return c.do(order{Op: opUDPUnconnected, Request: r})
}

// Echo exchanges Size bytes, Count times, over one TCP connection to an Echo
// port.
func (c *Client) Echo(r Request) Reply { return c.do(order{Op: opTCP, Request: r}) }

// Pid is the process id of the client.
func (c *Client) Pid() int { return c.child.Process.Pid }

// Close ends the client process.
func (c *Client) Close() error {
	cancel := c.child.killAfter(settleTime)
	_ = c.child.stdin.Close() // fails only if closed already
	<-c.ended                 // before Wait, which closes what is being read
	cancel()
	return c.child.stop()
}

// Stream is a socket that a client keeps open.
type Stream struct {
	client  *Client
	id      int
	timeout time.Duration
}

// OpenTCP connects to an Echo port.
func (c *Client) OpenTCP(r Request) (*Stream, Reply) { return c.open(opTCP, r) }

// OpenUDP makes a connected UDP socket. It sends nothing yet.
func (c *Client) OpenUDP(r Request) (*Stream, Reply) { return c.open(opUDPConnected, r) }

// OpenUDPUnconnected makes a UDP socket. It sends nothing yet.
func (c *Client) OpenUDPUnconnected(r Request) (*Stream, Reply) { return c.open(opUDPUnconnected, r) }

// open returns a stream even if opening failed. Exchanges with it fail then.
func (c *Client) open(op operation, r Request) (*Stream, Reply) {
	id, reply := c.send(order{Op: op, Keep: true, Request: r})
	return &Stream{client: c, id: id, timeout: r.Timeout}, reply
}

// Exchange sends bytes, and receives and verifies their echo.
func (s *Stream) Exchange(size int) Reply {
	return s.client.do(order{Op: opExchange, Session: s.id, Request: Request{Size: size, Timeout: s.timeout}})
}

// ExchangeWith is Exchange with another address than the one that the socket
// was opened for. The socket must be an unconnected one of UDP.
func (s *Stream) ExchangeWith(to netip.AddrPort, size int) Reply {
	return s.client.do(order{Op: opExchange, Session: s.id, Request: Request{To: to, Size: size, Timeout: s.timeout}})
}

// Close closes the socket.
func (s *Stream) Close() Reply { return s.client.do(order{Op: opClose, Session: s.id}) }

func (c *Client) do(o order) Reply {
	_, reply := c.send(o)
	return reply
}

// send passes an order to the process and waits for the answer.
func (c *Client) send(o order) (int, Reply) {
	// Opening and each exchange have a timeout; the process may still be
	// starting.
	patience := o.Request.timeout()*time.Duration(o.Request.count()+1) + startTime
	reply := make(chan Reply, 1)
	id, err := c.submit(o, reply)
	if err != nil {
		return id, Reply{Err: err.Error()}
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r := <-reply:
		return id, r
	case <-timer.C:
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.pending, id)
		return id, Reply{Err: fmt.Sprintf("the client process in %s did not answer", c.child.host.Name)}
	}
}

func (c *Client) submit(o order, reply chan Reply) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return 0, c.dead
	}
	c.lastID++
	o.ID = c.lastID
	line, err := json.Marshal(o)
	if err != nil {
		return 0, err
	}
	if _, err := c.child.stdin.Write(append(line, '\n')); err != nil {
		return 0, fmt.Errorf("client process in %s: %w", c.child.host.Name, err)
	}
	c.pending[o.ID] = reply
	return o.ID, nil
}

// receive distributes answers until the process ends. It then fails unanswered
// orders.
func (c *Client) receive() {
	defer close(c.ended)
	answers := json.NewDecoder(c.child.stdout)
	var err error
	for err == nil {
		var a answer
		if err = answers.Decode(&a); err == nil {
			c.deliver(a)
		}
	}
	if errors.Is(err, io.EOF) {
		err = errors.New("it ended")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = c.child.failure(err)
	for id, reply := range c.pending {
		reply <- Reply{Err: c.dead.Error()}
		delete(c.pending, id)
	}
}

func (c *Client) deliver(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if reply, ok := c.pending[a.ID]; ok {
		reply <- a.Reply
		delete(c.pending, a.ID)
	}
}

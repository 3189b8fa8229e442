// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// dialTimeout is how long one address is tried before the next one, and how long its server may
	// take for its first byte. (client-go gives the TLS handshake twice as long.)
	dialTimeout = 5 * time.Second
	keepAlive   = 30 * time.Second
)

// dialer connects to an API server that works. The client dials only the host of its configuration.
// The dialer connects each such connection to the address that comes first: one that has not
// failed, or else the one that failed longest ago.
type dialer struct {
	configured string // host:port of the client's configuration
	first      []string
	last       []string
	origin     func(address string) string // describes an address of first or last, for messages; nil: no description
	hello      time.Duration               // how long a server may take for its first byte
	dial       func(ctx context.Context, network, address string) (net.Conn, error)

	mu       sync.Mutex
	learnt   []string // tried between first and last
	failures uint64
	failed   map[string]uint64    // when an address failed last, as a count of failures
	why      map[string]string    // why an address failed last, until it answers
	answered map[string]time.Time // when an address answered last
	open     map[endpoints]*conn
}

// endpoints are both ends of a connection. They identify it even if it is wrapped.
type endpoints struct{ local, remote string }

func endpointsOf(c net.Conn) endpoints {
	return endpoints{c.LocalAddr().String(), c.RemoteAddr().String()}
}

func newDialer(configured string, first, last []string) *dialer {
	return &dialer{
		configured: configured,
		first:      first,
		last:       last,
		hello:      dialTimeout,
		dial:       (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext,
		failed:     map[string]uint64{},
		why:        map[string]string{},
		answered:   map[string]time.Time{},
		open:       map[endpoints]*conn{},
	}
}

// addresses lists the addresses in the order in which they are tried.
func (d *dialer) addresses() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, a := range slices.Concat(d.first, d.learnt, d.last) {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	slices.SortStableFunc(all, func(a, b string) int {
		switch x, y := d.failed[a], d.failed[b]; {
		case x < y:
			return -1
		case x > y:
			return 1
		}
		return 0
	})
	return all
}

// learn replaces the learnt addresses, and reports whether they differ from before.
func (d *dialer) learn(addresses []string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if slices.Equal(d.learnt, addresses) {
		return false
	}
	d.learnt = addresses
	return true
}

// DialContext tries the addresses in turn. A proxy, which the client's environment may ask for, is
// dialled as it is.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	if address != d.configured {
		return d.dial(ctx, network, address)
	}
	var errs []error
	for _, a := range d.addresses() {
		attemptOf(ctx).at(a)
		c, err := d.dial(ctx, network, a)
		if err == nil {
			return d.opened(c, a), nil
		}
		errs = append(errs, d.blame(a, err))
		if ctx.Err() != nil {
			break
		}
		d.fail(a)
	}
	return nil, errors.Join(errs...)
}

func (d *dialer) fail(address string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failures++
	d.failed[address] = d.failures
}

// conn is a connection to one address. If no request on it was answered by the time it is closed,
// its server hangs, or has another's certificate.
type conn struct {
	net.Conn
	dialer  *dialer
	address string
	dialled time.Time
	closed  sync.Once
	mute    *time.Timer // closes the connection unless something is read
	heard   atomic.Bool
}

func (d *dialer) opened(c net.Conn, address string) *conn {
	d.mu.Lock()
	defer d.mu.Unlock()
	opened := &conn{Conn: c, dialer: d, address: address, dialled: time.Now()}
	opened.mute = time.AfterFunc(d.hello, func() { _ = opened.Close() })
	d.open[endpointsOf(c)] = opened
	return opened
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && !c.heard.Swap(true) {
		c.mute.Stop()
	}
	return n, err
}

// answers notes that a request on this connection was answered, if the connection is ours.
func (d *dialer) answers(on net.Conn) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.open[endpointsOf(on)]; c != nil {
		d.answered[c.address] = time.Now()
		delete(d.failed, c.address)
		delete(d.why, c.address)
	}
}

// Close closes the connection. An unused connection is no sign that its server fails: when several
// are dialled at the same time, all but one may stay unused.
func (c *conn) Close() error {
	c.closed.Do(func() {
		c.dialer.mu.Lock()
		c.mute.Stop()
		delete(c.dialer.open, endpointsOf(c.Conn))
		silent := c.dialer.answered[c.address].Before(c.dialled)
		c.dialer.mu.Unlock()
		if silent {
			c.dialer.fail(c.address)
		}
	})
	return c.Conn.Close()
}

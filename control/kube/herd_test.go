// SPDX-License-Identifier: Apache-2.0

package kube

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// pipes is a network in memory with one server. Nothing on it takes time.
type pipes struct {
	accepted chan net.Conn
	closed   chan struct{}
	dialled  atomic.Int64
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.accepted:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { return nil }
func (p *pipes) Addr() net.Addr { return pipeAddr("api:443") }

type pipeAddr string

func (a pipeAddr) Network() string { return "pipe" }
func (a pipeAddr) String() string  { return string(a) }

// pipeConn has addresses of its own, as other connections have.
type pipeConn struct {
	net.Conn
	local pipeAddr
}

func (c pipeConn) LocalAddr() net.Addr { return c.local }

// counter is an API server that counts, for each second of the bubble's clock, requests and attempts
// to connect.
type counter struct {
	*pipes
	begun time.Time

	mu      sync.Mutex
	seconds []int
	down    bool // it accepts no connections
	answer  int
	gone    chan struct{} // closed when the server goes down
}

func newCounter() *counter {
	return &counter{
		pipes: &pipes{accepted: make(chan net.Conn), closed: make(chan struct{})},
		begun: time.Now(), answer: http.StatusOK, gone: make(chan struct{}),
	}
}

func (c *counter) count() {
	c.mu.Lock()
	defer c.mu.Unlock()
	second := int(time.Since(c.begun) / time.Second)
	for len(c.seconds) <= second {
		c.seconds = append(c.seconds, 0)
	}
	c.seconds[second]++
}

func (c *counter) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	c.count()
	c.mu.Lock()
	status := c.answer
	c.mu.Unlock()
	w.WriteHeader(status)
}

func (c *counter) dial(context.Context, string, string) (net.Conn, error) {
	c.mu.Lock()
	down := c.down
	c.mu.Unlock()
	if down {
		c.count()
		return nil, errors.New("connection refused")
	}
	ours, theirs := net.Pipe()
	c.accepted <- theirs
	return pipeConn{ours, pipeAddr("client:" + strconv.FormatInt(c.dialled.Add(1), 10))}, nil
}

// set changes how the server answers.
func (c *counter) set(down bool, answer int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if down && !c.down {
		close(c.gone)
		c.gone = make(chan struct{})
	}
	c.down, c.answer = down, answer
}

func (c *counter) lost() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gone
}

// most returns the most requests in one second of a span of time since the beginning.
func (c *counter) most(from, to time.Duration) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Max(append([]int{0}, c.seconds[min(len(c.seconds), int(from/time.Second)):min(len(c.seconds), int(to/time.Second))]...))
}

// herd runs agents of one cluster: for each its probe, and the requests for the four kinds, with
// client-go's backoff.
func (c *counter) herd(ctx context.Context, agents int, pace pace) (wait func()) {
	var wg sync.WaitGroup
	log := logrus.New()
	log.SetOutput(io.Discard)
	for range agents {
		sight := newSight(logrus.NewEntry(log))
		d := newDialer("api:443", []string{"api:443"}, nil)
		d.dial = c.dial
		transport := &http.Transport{DialContext: d.DialContext, IdleConnTimeout: time.Second}
		client := &http.Client{Transport: &observer{next: transport, dialer: d, sight: sight, problems: newProblems(logrus.NewEntry(log)), done: ctx}}
		p := &probe{client: client, url: &url.URL{Scheme: "http", Host: "api:443"}, sight: sight, dialer: d, pace: pace}
		wg.Go(func() { p.run(ctx) })
		for path := range kinds {
			wg.Go(func() { c.watch(ctx, client, path) })
		}
	}
	return wg.Wait
}

// watch does what an informer does: it sends requests, with growing pauses, until one is answered,
// and then has a connection for as long as the server lives.
func (c *counter) watch(ctx context.Context, client *http.Client, path string) {
	const first, longest = 800 * time.Millisecond, 30 * time.Second
	pause := first
	for ctx.Err() == nil {
		lost := c.lost()
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://api:443"+path, nil)
		if err != nil {
			panic(err) // the path is a constant
		}
		resp, err := client.Do(r)
		if err == nil {
			resp.Body.Close()
		}
		wait := make(<-chan time.Time)
		if err == nil && resp.StatusCode == http.StatusOK {
			pause = first
		} else {
			lost, wait = nil, time.After(pause+rand.N(pause))
			pause = min(2*pause, longest)
		}
		select {
		case <-ctx.Done():
		case <-lost:
		case <-wait:
		}
	}
}

// TestHerd: agents don't send requests all at once, neither while the API server works, nor while it
// is away or fails, nor when it comes back.
func TestHerd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const agents = 500
		c := newCounter()
		server := &http.Server{Handler: c}
		go server.Serve(c) //nolint:errcheck // it ends when it is closed
		ctx, cancel := context.WithCancel(t.Context())
		wait := c.herd(ctx, agents, defaultPace)

		var now time.Duration
		pass := func(d time.Duration) (from, to time.Duration) {
			time.Sleep(d)
			now += d
			return now - d, now
		}
		check := func(what string, from, to time.Duration, atMost int) {
			t.Helper()
			got := c.most(from, to)
			t.Logf("%s: at most %d requests a second of %d agents", what, got, agents)
			if got > atMost {
				t.Errorf("%s: %d requests in one second, of %d agents, want at most %d", what, got, agents, atMost)
			}
		}
		_, begun := pass(time.Minute) // all agents start in one moment
		_, to := pass(2 * time.Minute)
		check("it works", begun, to, agents/5)
		c.set(true, http.StatusOK)
		from, to := pass(5 * time.Minute)
		check("it is away", from+time.Minute, to, agents/5)
		c.set(false, http.StatusInternalServerError)
		from, to = pass(2 * time.Minute)
		check("it comes back, and is not ready", from, to, agents/5)
		c.set(false, http.StatusOK)
		from, to = pass(2 * time.Minute)
		check("it works again", from, to, agents/2)
		check("it works as before", from+time.Minute, to, agents/5)

		cancel()
		wait()
		close(c.closed)
		server.Close()
		time.Sleep(time.Minute) // idle connections end
	})
}

// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// Limits of what is passed on.
const (
	// patience is less than the five seconds for which a client's own resolver waits.
	patience = 4500 * time.Millisecond
	attempts = 2 // of all servers
	// maxForwarded is how many queries are passed on at one time: a loop that is not noticed ends there.
	maxForwarded = 1000
)

// ednsSize is how long an answer over UDP may be, in bytes, so that it is not fragmented.
const ednsSize = 1232

var (
	errBusy       = errors.New("too many queries are being passed on")
	errNoResolver = errors.New("there is no resolver to ask")
)

// forwarder asks the node's resolvers. Its methods may be called concurrently.
type forwarder struct {
	free chan struct{}

	mu      sync.Mutex // guards what follows
	from    resolvers
	best    int               // index of the server that answered last
	probes  map[string]string // servers that were sent a probe, by its name
	looping map[string]bool   // servers whose probe came back to us
}

func newForwarder() *forwarder {
	return &forwarder{free: make(chan struct{}, maxForwarded), probes: map[string]string{}, looping: map[string]bool{}}
}

// use replaces the resolvers, and reports whether they are others than before.
func (f *forwarder) use(r resolvers) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.from.equal(r) {
		return false
	}
	f.from, f.best, f.looping = r, 0, map[string]bool{}
	return true
}

// order lists the servers to ask, the one first that answered last.
func (f *forwarder) order() resolvers {
	f.mu.Lock()
	defer f.mu.Unlock()
	all := resolvers{timeout: f.from.timeout}
	for i := range f.from.servers {
		s := f.from.servers[(f.best+i)%len(f.from.servers)]
		if !f.looping[s.String()] {
			all.servers = append(all.servers, s)
		}
	}
	return all
}

// answered makes a server the first to be asked.
func (f *forwarder) answered(server netip.AddrPort) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i := slices.Index(f.from.servers, server); i >= 0 {
		f.best = i
	}
}

// ask asks one server after the other until one answers, other than that it can't. The reply has the query's id.
func (f *forwarder) ask(ctx context.Context, query *dns.Msg) (*dns.Msg, error) {
	select {
	case f.free <- struct{}{}:
		defer func() { <-f.free }()
	default:
		return nil, errBusy
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	from := f.order()
	err := errNoResolver
	var refusal *dns.Msg
	for i := range len(from.servers) * attempts {
		server := from.servers[i%len(from.servers)]
		var reply *dns.Msg
		if reply, err = exchange(ctx, query, server, from.timeout); err == nil {
			if reply.Rcode != dns.RcodeServerFailure && reply.Rcode != dns.RcodeRefused {
				f.answered(server)
				reply.Id = query.Id
				return reply, nil
			}
			refusal = reply
		}
		if ctx.Err() != nil {
			break
		}
	}
	if refusal != nil {
		refusal.Id = query.Id
		return refusal, nil
	}
	return nil, err
}

// exchange asks one server, again by TCP if its answer was cut short. The query gets an id, a source port and EDNS
// options of its own: a client's may be meant for us alone.
func exchange(ctx context.Context, query *dns.Msg, server netip.AddrPort, timeout time.Duration) (*dns.Msg, error) {
	m := &dns.Msg{MsgHdr: dns.MsgHdr{
		Id: dns.Id(), RecursionDesired: query.RecursionDesired, CheckingDisabled: query.CheckingDisabled, AuthenticatedData: query.AuthenticatedData,
	}, Question: query.Question}
	opt := query.IsEdns0()
	m.SetEdns0(ednsSize, opt != nil && opt.Do())
	for _, network := range []string{"udp", "tcp"} {
		client := dns.Client{Net: network, Timeout: timeout}
		reply, _, err := client.ExchangeContext(ctx, m, server.String())
		switch {
		case err != nil:
			return nil, fmt.Errorf("resolver %s: %w", server.Addr(), err)
		case !isReplyTo(reply, m):
			return nil, fmt.Errorf("resolver %s: answers another question", server.Addr())
		case !reply.Truncated || network == "tcp":
			return reply, nil
		}
	}
	return nil, nil // not reached
}

func isReplyTo(reply, query *dns.Msg) bool {
	if !reply.Response || len(reply.Question) != 1 {
		return false
	}
	asked, answered := query.Question[0], reply.Question[0]
	return strings.EqualFold(asked.Name, answered.Name) && asked.Qtype == answered.Qtype && asked.Qclass == answered.Qclass
}

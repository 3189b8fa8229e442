// SPDX-License-Identifier: Apache-2.0

package members

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/waggle-lb/waggle/control/atomicfile"
)

// How often members that are not alive are looked for: at first often, since two parts of a group that have not reached each
// other may both answer for an address, and less often the longer they are gone.
const (
	lookSoon  = time.Second
	lookLater = 10 * time.Second
	soon      = 30 * time.Second
	findEvery = 30 * time.Second // how often Find is asked while no other member is alive
	forget    = 10 * time.Minute // a member that has not been seen
)

// Reconnect tries to reach every agent that is known, and returns when each has answered, or hasn't for some time. Members
// that answer are Joined by then. An error says that it is not known which agents there are, or that another one has the name
// of this one.
func (m *Members) Reconnect(ctx context.Context) (reached int, err error) {
	found, err := m.opts.Find(ctx)
	if err != nil {
		if len(m.remote.list()) == 0 {
			return 0, err
		}
		m.opts.Log.WithError(err).Debug("looking for members")
	}
	if err == nil {
		m.setFound(found)
	}
	began := time.Now()
	reached = m.join(ctx, slices.Concat(found, m.remote.list()), true)
	return reached, m.namesake(began)
}

// Missing are the addresses of agents that Find has listed and that do not answer: they don't run, can't be reached, or have
// another key.
func (m *Members) Missing() (addrs []string) {
	alive := m.liveAddresses()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, a := range m.found {
		a = m.withPort(a)
		there := func(at string) bool { return alive[at] || m.isOwn(at) }
		if !there(a) && !slices.ContainsFunc(m.resolved[a], there) && !slices.Contains(addrs, a) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

func (m *Members) setFound(addrs []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.found = addrs
}

// join tries addresses at the same time. Of those whose members are alive only few are tried.
func (m *Members) join(ctx context.Context, addrs []string, few bool) (reached int) {
	const enough = 3
	alive := m.liveAddresses()
	var mu sync.Mutex
	var wg sync.WaitGroup
	tried := map[string]bool{}
	for _, a := range m.resolve(ctx, addrs) {
		if tried[a] || m.isOwn(a) {
			continue
		}
		tried[a] = true
		if alive[a] {
			if !few || len(alive) > enough && len(tried) > enough {
				continue
			}
		}
		wg.Go(func() {
			if n, err := m.list.Join([]string{a}); err == nil && n > 0 {
				mu.Lock()
				reached++
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return reached
}

// isOwn reports whether an address is this agent's. A node's own name often leads to 127.0.1.1.
func (m *Members) isOwn(address string) bool {
	a, err := netip.ParseAddrPort(address)
	if err != nil || a.Port() != m.opts.Port {
		return false
	}
	return a.Addr() == m.opts.Address || a.Addr().IsLoopback() && !m.opts.Address.IsLoopback()
}

// resolvePatience is for how long a resolver may take. One that takes longer is asked again with the next attempt.
const resolvePatience = 2 * time.Second

// resolve replaces hosts by their addresses, all with ports. A host whose address is not known is left out.
func (m *Members) resolve(ctx context.Context, hosts []string) (addrs []string) {
	ctx, cancel := context.WithTimeout(ctx, resolvePatience)
	defer cancel()
	var wg sync.WaitGroup
	found := make([][]string, len(hosts))
	for i, h := range hosts {
		h = m.withPort(h)
		if _, err := netip.ParseAddrPort(h); err == nil {
			found[i] = []string{h}
			continue
		}
		wg.Go(func() {
			host, port, _ := net.SplitHostPort(h)
			ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
			if err != nil {
				m.opts.Log.WithError(err).Debug("looking for members")
			}
			for _, ip := range ips {
				found[i] = append(found[i], net.JoinHostPort(ip.Unmap().String(), port))
			}
			m.mu.Lock()
			defer m.mu.Unlock()
			m.resolved[h] = found[i]
		})
	}
	wg.Wait()
	return slices.Concat(found...)
}

func (m *Members) liveAddresses() map[string]bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := map[string]bool{}
	for _, n := range m.live {
		all[net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))] = true
	}
	return all
}

// withPort adds the group's port to an address without one.
func (m *Members) withPort(address string) string {
	if a, err := netip.ParseAddr(address); err == nil {
		return netip.AddrPortFrom(a.Unmap(), m.opts.Port).String()
	}
	if a, err := netip.ParseAddrPort(address); err == nil {
		return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()).String()
	}
	if _, _, err := net.SplitHostPort(address); err == nil {
		return address
	}
	return net.JoinHostPort(address, strconv.Itoa(int(m.opts.Port)))
}

// Run looks for members that are not alive, until ctx is done.
func (m *Members) Run(ctx context.Context) {
	var found []string
	var asked, tried time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait.Jitter(lookSoon, 0.3)):
		}
		m.remote.seen(slices.Collect(maps.Keys(m.liveAddresses())))
		if len(m.Live()) == 0 && time.Since(asked) >= findEvery || asked.IsZero() {
			asked = time.Now()
			if now, err := m.opts.Find(ctx); err == nil {
				found = now
				m.setFound(now)
			}
		}
		missed := m.remote.list()
		if m.remote.gone() > soon && time.Since(tried) < lookLater {
			continue
		}
		tried = time.Now()
		m.join(ctx, slices.Concat(missed, found), false)
	}
}

// remembered are the addresses of members, and when they were last alive.
type remembered struct {
	file string

	mu      sync.Mutex
	last    map[string]time.Time
	changed bool // since the file was written
}

func newRemembered(file string) *remembered {
	r := &remembered{file: file, last: map[string]time.Time{}}
	if raw, err := os.ReadFile(file); err == nil && file != "" {
		var addrs []string
		if json.Unmarshal(raw, &addrs) == nil {
			for _, a := range addrs {
				if _, err := netip.ParseAddrPort(a); err == nil {
					r.last[a] = time.Now()
				}
			}
		}
	}
	return r
}

func (r *remembered) add(addr string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, had := r.last[addr]
	r.last[addr] = time.Now()
	r.changed = r.changed || !had
}

// seen notes members that are alive, and forgets those that have not been for long.
func (r *remembered) seen(alive []string) {
	r.mu.Lock()
	before := len(r.last)
	for _, a := range alive {
		r.last[a] = time.Now()
	}
	maps.DeleteFunc(r.last, func(_ string, at time.Time) bool { return time.Since(at) > forget })
	changed := r.changed || len(r.last) != before
	r.changed = false
	r.mu.Unlock()
	if changed {
		r.keep()
	}
}

func (r *remembered) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Sorted(maps.Keys(r.last))
}

// gone is for how long the member has been gone that was lost last; more than that for none.
func (r *remembered) gone() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	least := forget
	for _, at := range r.last {
		if d := time.Since(at); d > lookSoon/2 {
			least = min(least, d)
		}
	}
	return least
}

// keep writes the file. It only helps to find the others sooner.
func (r *remembered) keep() {
	if r.file == "" {
		return
	}
	raw, err := json.Marshal(r.list())
	if err == nil {
		_ = atomicfile.Write(r.file, bytes.TrimSpace(raw), 0o600)
	}
}

// ParsePeer checks an address of --peers.
func ParsePeer(s string) error {
	host, port, err := net.SplitHostPort(s)
	if err != nil {
		host, port = s, ""
		if a, err := netip.ParseAddr(s); err == nil && a.IsValid() {
			return nil
		}
		if bytes.ContainsAny([]byte(s), ":[]") {
			return fmt.Errorf("%q is neither a host nor host:port", s)
		}
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "" && (err != nil || n == 0) {
		return fmt.Errorf("%q: %q is not a port", s, port)
	}
	if host == "" || bytes.ContainsAny([]byte(host), " /") {
		return fmt.Errorf("%q is neither a host nor host:port", s)
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// probeDomain ends the names of probes. It is no special name: resolvers answer these themselves, and pass this one on.
const probeDomain = ".waggle-loop-probe."

// probe sends each resolver a query for a name that occurs once, and notes those whose query comes back to us: a
// resolver on the node, such as systemd-resolved or dnsmasq, may be configured to ask waggle. Those are not asked any
// more, but probed again each time.
func (f *forwarder) probe(ctx context.Context, onlyLooping bool) {
	f.mu.Lock()
	from := f.from
	f.mu.Unlock()
	var all sync.WaitGroup
	for _, server := range from.servers {
		f.mu.Lock()
		skip := onlyLooping && !f.looping[server.String()]
		name := strings.ToLower(rand.Text()) + probeDomain
		if !skip {
			delete(f.looping, server.String())
			f.probes[name] = server.String()
		}
		f.mu.Unlock()
		if skip {
			continue
		}
		all.Go(func() {
			query := new(dns.Msg).SetQuestion(name, dns.TypeHINFO)
			_, _ = exchange(ctx, query, server, from.timeout) // whatever it answers
			f.mu.Lock()
			delete(f.probes, name)
			f.mu.Unlock()
		})
	}
	all.Wait()
}

// returned reports whether a question is a probe of ours that comes back.
func (f *forwarder) returned(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	server, ok := f.probes[strings.ToLower(name)]
	if ok {
		f.looping[server] = true
	}
	return ok
}

// loops describes the resolvers that lead back to us.
func (f *forwarder) loops() (problems []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.from.servers {
		if f.looping[s.String()] {
			problems = append(problems, fmt.Sprintf("nameserver %s asks waggle what waggle asks it: it is left out until that ends", s.Addr()))
		}
	}
	slices.Sort(problems)
	return problems
}

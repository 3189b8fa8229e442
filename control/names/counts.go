// SPDX-License-Identifier: Apache-2.0

package names

import (
	"sync"

	"github.com/miekg/dns"

	"github.com/waggle-lb/waggle/control/status"
)

// counts are of queries since the agent started.
type counts struct {
	mu        sync.Mutex
	udp, tcp  uint64
	answers   map[string]uint64 // by rcode
	forwarded uint64            // queries that other resolvers were to answer
}

func (c *counts) query(udp bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if udp {
		c.udp++
	} else {
		c.tcp++
	}
}

func (c *counts) reply(reply *dns.Msg) {
	name, ok := dns.RcodeToString[reply.Rcode]
	if !ok {
		name = "other"
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.answers == nil {
		c.answers = map[string]uint64{}
	}
	c.answers[name]++
}

func (c *counts) forward() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forwarded++
}

func (c *counts) into(s *status.Names) {
	c.mu.Lock()
	defer c.mu.Unlock()
	s.Queries = map[string]uint64{"udp": c.udp, "tcp": c.tcp}
	s.Answers = map[string]uint64{}
	for code, n := range c.answers {
		s.Answers[code] = n
	}
	s.Forwarded = c.forwarded
}

// SPDX-License-Identifier: Apache-2.0

package names

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// resolvers are the node's own, in the order of resolv.conf(5).
type resolvers struct {
	servers []netip.AddrPort
	timeout time.Duration // of one attempt
}

// maxTimeout is less than the five seconds after which a client's own resolver gives up on us: several servers are to
// have their chance before.
const maxTimeout = 2 * time.Second

// maxServers is as many as the C library takes (MAXNS in resolv.h).
const maxServers = 3

// parseResolvers reads a resolv.conf. Servers that are ours would be asked what they asked: they are left out, as are those
// that are no addresses, and problems says so.
func parseResolvers(text string, ours []netip.Addr) (r resolvers, problems []string) {
	c, err := dns.ClientConfigFromReader(strings.NewReader(text))
	if err != nil {
		return r, []string{err.Error()}
	}
	r.timeout = min(time.Duration(c.Timeout)*time.Second, maxTimeout)
	for _, s := range c.Servers {
		a, err := netip.ParseAddr(s)
		switch {
		case err != nil:
			problems = append(problems, fmt.Sprintf("nameserver %s is not an IP address", s))
		case slices.Contains(ours, a.Unmap()):
			problems = append(problems, fmt.Sprintf("nameserver %s is where waggle itself answers: it is left out, and names outside of the cluster need another one", s))
		case len(r.servers) < maxServers:
			r.servers = append(r.servers, netip.AddrPortFrom(a.Unmap(), 53))
		}
	}
	if len(r.servers) == 0 {
		problems = append(problems, "it names no server to ask for names outside of the cluster")
	}
	return r, problems
}

// readResolvers reads the file; its name is in the problems.
func readResolvers(file string, ours []netip.Addr) (resolvers, []string) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return resolvers{}, []string{err.Error()}
	}
	r, problems := parseResolvers(string(raw), ours)
	for i := range problems {
		problems[i] = file + ": " + problems[i]
	}
	return r, problems
}

func (r resolvers) equal(other resolvers) bool {
	return slices.Equal(r.servers, other.servers) && r.timeout == other.timeout
}

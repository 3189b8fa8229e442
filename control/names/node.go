// SPDX-License-Identifier: Apache-2.0

package names

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// node is what there is at one name. One with nothing in it exists because of names below it.
type node struct {
	addrs     []netip.Addr
	targets   []target
	text      string
	alias     string   // canonical
	pointers  []string // canonical
	authority bool     // the top of the zone
}

// target is what an SRV record leads to.
type target struct {
	name  string // canonical
	port  uint16
	addrs []netip.Addr
}

func (n *node) empty() bool {
	return len(n.addrs)+len(n.targets)+len(n.pointers) == 0 && n.text == "" && n.alias == "" && !n.authority
}

// schemaVersion is the version of the specification.
const schemaVersion = "1.1.0"

// find returns what is at a canonical name within the zone; nil: it does not exist. z.mu is held.
func (z *Zone) find(name string) *node {
	labels := dns.SplitDomainName(strings.TrimSuffix(name, z.domain))
	slices.Reverse(labels)
	at := func(i int) string { return labels[i] }
	switch {
	case len(labels) == 0:
		return &node{authority: true}
	case len(labels) == 1 && at(0) == "dns-version":
		return &node{text: schemaVersion}
	case at(0) == "dns":
		return z.findNameserver(labels[1:])
	case at(0) != "svc":
		return nil
	case len(labels) == 1:
		return &node{}
	case z.namespaces[at(1)] == 0:
		return nil
	case len(labels) == 2:
		return &node{}
	}
	k := key{at(1), at(2)}
	if s := z.services[k]; s != nil {
		return z.findInService(k, s, labels[3:])
	}
	return nil
}

// findNameserver finds ns.dns, the name of the server in NS and SOA records.
func (z *Zone) findNameserver(labels []string) *node {
	switch {
	case len(labels) == 0:
		return &node{}
	case len(labels) == 1 && labels[0] == "ns":
		return &node{addrs: z.nameservers}
	}
	return nil
}

// findInService finds the Service itself, one of its ports, or one of its endpoints; labels are those below the
// Service's name, from the right.
func (z *Zone) findInService(k key, s *service, labels []string) *node {
	if s.external != "" {
		if len(labels) == 0 {
			return &node{alias: s.external}
		}
		return nil
	}
	ends := z.endsOf(k, s)
	if len(ends) == 0 {
		return nil // the specification wants NXDOMAIN for a headless Service that has no ready endpoint
	}
	switch len(labels) {
	case 0:
		n := &node{targets: targetsOf(ends, "", "")}
		for _, e := range ends {
			n.addrs = append(n.addrs, e.addrs...)
		}
		return n
	case 1:
		if protocol, ok := strings.CutPrefix(labels[0], "_"); ok {
			if len(targetsOf(ends, "", protocol)) > 0 {
				return &node{}
			}
			return nil
		}
		return findEndpoint(ends, labels[0])
	case 2:
		protocol, ok := strings.CutPrefix(labels[0], "_")
		name, named := strings.CutPrefix(labels[1], "_")
		if targets := targetsOf(ends, name, protocol); ok && named && name != "" && len(targets) > 0 {
			return &node{targets: targets}
		}
	}
	return nil
}

// end is a host that serves a Service: the Service's own name with its cluster IPs, or an endpoint of a headless one.
type end struct {
	name  string // canonical
	host  string // the first label of an endpoint's name
	addrs []netip.Addr
	ports []port
}

// endsOf lists the ends of a Service, with those of a headless one in order; z.mu is held.
func (z *Zone) endsOf(k key, s *service) []end {
	name := z.nameOf(k)
	if !s.headless {
		return []end{{name: name, addrs: s.ips, ports: s.ports}}
	}
	byHost := map[string]*end{}
	for _, sl := range z.slices[k] {
		for _, e := range sl.endpoints {
			if !e.ready && !s.unready {
				continue
			}
			if byHost[e.host] == nil {
				byHost[e.host] = &end{name: e.host + "." + name, host: e.host}
			}
			byHost[e.host].add(e.addr, sl.ports)
		}
	}
	all := make([]end, 0, len(byHost))
	for _, e := range byHost {
		slices.SortFunc(e.addrs, netip.Addr.Compare)
		slices.SortFunc(e.ports, func(a, b port) int {
			return cmp.Or(cmp.Compare(a.name, b.name), cmp.Compare(a.protocol, b.protocol), cmp.Compare(a.number, b.number))
		})
		all = append(all, *e)
	}
	slices.SortFunc(all, func(a, b end) int { return cmp.Compare(a.host, b.host) })
	return all
}

// add adds what one slice has of an endpoint: those of a dual-stack endpoint are in two.
func (e *end) add(addr netip.Addr, ports []port) {
	if !slices.Contains(e.addrs, addr) {
		e.addrs = append(e.addrs, addr)
	}
	for _, p := range ports {
		if !slices.Contains(e.ports, p) {
			e.ports = append(e.ports, p)
		}
	}
}

// nameOf is the canonical name of a Service.
func (z *Zone) nameOf(k key) string {
	return strings.ToLower(k.name+"."+k.namespace) + ".svc." + z.domain
}

// targetsOf lists what SRV records of some ports lead to; an empty name or protocol stands for all.
func targetsOf(ends []end, name, protocol string) (all []target) {
	for _, e := range ends {
		for _, p := range e.ports {
			if (name == "" || p.name == name) && (protocol == "" || p.protocol == protocol) {
				all = append(all, target{e.name, p.number, e.addrs})
			}
		}
	}
	return all
}

func findEndpoint(ends []end, host string) *node {
	for _, e := range ends {
		if e.host == host && host != "" {
			return &node{addrs: e.addrs, targets: targetsOf([]end{e}, "", "")}
		}
	}
	return nil
}

// SPDX-License-Identifier: Apache-2.0

package names

import (
	"math/rand/v2"
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// ttl is how long, in seconds, an answer may be kept, and that there is none: that of CoreDNS.
const ttl = 5

// Answer is what a zone says to a question.
type Answer struct {
	// Ours: the zone decides. Otherwise the question is to be passed on.
	Ours   bool
	Rcode  int
	Answer []dns.RR
	Ns     []dns.RR
	Extra  []dns.RR
	// Next is a name outside of the zone, whose records of the type asked for complete the answer; "": none.
	Next string
}

// maxAliases is how many CNAME records are followed: ExternalName Services may lead to each other in a circle.
const maxAliases = 8

// Answer answers a question of class IN.
func (z *Zone) Answer(q dns.Question) Answer {
	z.mu.RLock()
	defer z.mu.RUnlock()
	name := dns.CanonicalName(q.Name)
	if reversed(name) {
		return z.answerReverse(q, name)
	}
	if !dns.IsSubDomain(z.domain, name) {
		full := z.complete(name)
		if full == "" {
			return Answer{}
		}
		a := Answer{Ours: true, Answer: []dns.RR{alias(q.Name, full)}}
		if q.Qtype != dns.TypeCNAME {
			z.follow(&a, q, full, full)
		}
		return a
	}
	a := Answer{Ours: true}
	z.follow(&a, q, q.Name, name)
	return a
}

// complete returns the full name of a Service, or of something in it, of which only the first labels are asked for:
// NAME, in the namespace "default", NAME.NAMESPACE or NAME.NAMESPACE.svc. It returns "" if there is none: other
// resolvers know names of one or two labels, too. A client with the search domains of its namespace never asks so.
func (z *Zone) complete(name string) string {
	if name == "." {
		return ""
	}
	for _, rest := range []string{"", "svc.", "default.svc."} {
		full := name + rest + z.domain
		if n := z.find(full); n != nil && !n.empty() && strings.HasSuffix(full, ".svc."+z.domain) {
			return full
		}
	}
	return ""
}

// follow adds what there is at a name, by way of its aliases. Records get the owner's spelling of it.
func (z *Zone) follow(a *Answer, q dns.Question, owner, name string) {
	for range maxAliases {
		n := z.find(name)
		if n == nil {
			a.Rcode = dns.RcodeNameError
			a.Ns = []dns.RR{z.soa(z.domain)}
			return
		}
		if n.alias == "" {
			z.add(a, q, owner, n)
			return
		}
		a.Answer = append(a.Answer, alias(owner, n.alias))
		if q.Qtype == dns.TypeCNAME {
			return
		}
		owner, name = n.alias, n.alias
		if !dns.IsSubDomain(z.domain, name) {
			a.Next = name
			return
		}
	}
	a.Rcode = dns.RcodeServerFailure
}

// add adds the records of the type that is asked for, or says that there are none.
func (z *Zone) add(a *Answer, q dns.Question, owner string, n *node) {
	records := z.records(q.Qtype, owner, n)
	a.Answer = append(a.Answer, records...)
	if len(records) == 0 {
		a.Ns = []dns.RR{z.soa(z.domain)}
	}
	if q.Qtype == dns.TypeSRV {
		seen := map[string]bool{}
		for _, t := range n.targets {
			if !seen[t.name] {
				a.Extra = append(a.Extra, append(addresses(dns.TypeA, t.name, t.addrs), addresses(dns.TypeAAAA, t.name, t.addrs)...)...)
			}
			seen[t.name] = true
		}
	}
}

func (z *Zone) records(kind uint16, owner string, n *node) []dns.RR {
	switch kind {
	case dns.TypeA, dns.TypeAAAA:
		return addresses(kind, owner, n.addrs)
	case dns.TypeSRV:
		return services(owner, n.targets)
	case dns.TypeTXT:
		if n.text != "" {
			return []dns.RR{&dns.TXT{Hdr: header(owner, kind), Txt: []string{n.text}}}
		}
	case dns.TypeSOA:
		if n.authority {
			return []dns.RR{z.soa(owner)}
		}
	case dns.TypeNS:
		if n.authority {
			return []dns.RR{&dns.NS{Hdr: header(owner, kind), Ns: z.nameserver()}}
		}
	case dns.TypeANY: // RFC 8482, section 4.2
		return []dns.RR{&dns.HINFO{Hdr: header(owner, dns.TypeHINFO), Cpu: "RFC8482"}}
	}
	return nil
}

func (z *Zone) nameserver() string { return "ns.dns." + z.domain }

// soa is the SOA record of a zone, whose last field is how long a negative answer may be kept (RFC 2308).
func (z *Zone) soa(owner string) dns.RR {
	return &dns.SOA{Hdr: header(owner, dns.TypeSOA), Ns: z.nameserver(), Mbox: "hostmaster." + z.domain,
		Serial: z.serial, Refresh: 7200, Retry: 1800, Expire: 86400, Minttl: ttl}
}

func header(owner string, kind uint16) dns.RR_Header {
	return dns.RR_Header{Name: owner, Rrtype: kind, Class: dns.ClassINET, Ttl: ttl}
}

func alias(owner, target string) dns.RR {
	return &dns.CNAME{Hdr: header(owner, dns.TypeCNAME), Target: target}
}

// addresses makes A or AAAA records. They begin with another one each time, as some clients only try the first.
func addresses(kind uint16, owner string, addrs []netip.Addr) []dns.RR {
	var all []dns.RR
	for _, a := range addrs {
		switch {
		case kind == dns.TypeA && a.Is4():
			all = append(all, &dns.A{Hdr: header(owner, kind), A: a.AsSlice()})
		case kind == dns.TypeAAAA && a.Is6():
			all = append(all, &dns.AAAA{Hdr: header(owner, kind), AAAA: a.AsSlice()})
		}
	}
	if len(all) > 1 {
		first := rand.IntN(len(all))
		all = append(all[first:len(all):len(all)], all[:first]...)
	}
	return all
}

// services makes SRV records, each with the same chance (RFC 2782).
func services(owner string, targets []target) []dns.RR {
	var all []dns.RR
	for _, t := range targets {
		all = append(all, &dns.SRV{Hdr: header(owner, dns.TypeSRV), Weight: 100, Port: t.port, Target: t.name})
	}
	return all
}

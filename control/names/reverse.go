// SPDX-License-Identifier: Apache-2.0

package names

import (
	"encoding/hex"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

const (
	arpa4 = ".in-addr.arpa."
	arpa6 = ".ip6.arpa."
)

func reversed(name string) bool {
	return strings.HasSuffix(name, arpa4) || strings.HasSuffix(name, arpa6)
}

// answerReverse answers a question for the name of an address. z.mu is held.
func (z *Zone) answerReverse(q dns.Question, name string) Answer {
	addr, ok := parseReverse(name)
	if !ok {
		return Answer{}
	}
	cidr := slices.IndexFunc(z.cidrs, func(p netip.Prefix) bool { return p.Contains(addr) })
	pointers := z.pointersTo(addr)
	if len(pointers) == 0 && cidr < 0 {
		return Answer{} // the address of a pod, or of something outside
	}
	a := Answer{Ours: true}
	for _, name := range pointers {
		if q.Qtype == dns.TypePTR || q.Qtype == dns.TypeANY {
			a.Answer = append(a.Answer, &dns.PTR{Hdr: header(q.Name, dns.TypePTR), Ptr: name})
		}
	}
	if len(a.Answer) > 0 {
		return a
	}
	zone := name
	if cidr >= 0 {
		zone = reverseZone(z.cidrs[cidr])
	}
	a.Ns = []dns.RR{z.soa(zone)}
	if len(pointers) == 0 {
		a.Rcode = dns.RcodeNameError
	}
	return a
}

// pointersTo lists the names that have an address, in order: of Services with that cluster IP, and of endpoints of headless
// ones.
func (z *Zone) pointersTo(addr netip.Addr) (all []string) {
	for _, k := range z.holders[addr] {
		s := z.services[k]
		if s == nil {
			continue
		}
		for _, e := range z.endsOf(k, s) {
			if slices.Contains(e.addrs, addr) {
				all = append(all, e.name)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all) // a Service may have it in two slices
}

// parseReverse reads the address of a canonical name below in-addr.arpa (RFC 1035, section 3.5) or ip6.arpa (RFC 3596,
// section 2.5).
func parseReverse(name string) (netip.Addr, bool) {
	if rest, ok := strings.CutSuffix(name, arpa4); ok {
		parts := strings.Split(rest, ".")
		slices.Reverse(parts)
		a, err := netip.ParseAddr(strings.Join(parts, "."))
		return a, err == nil && a.Is4()
	}
	nibbles := strings.Split(strings.TrimSuffix(name, arpa6), ".")
	slices.Reverse(nibbles)
	if len(nibbles) != 32 || slices.ContainsFunc(nibbles, func(s string) bool { return len(s) != 1 }) {
		return netip.Addr{}, false
	}
	raw, err := hex.DecodeString(strings.Join(nibbles, ""))
	a, ok := netip.AddrFromSlice(raw)
	return a, err == nil && ok
}

// reverseZone is the smallest zone that holds the names of all addresses of a range.
func reverseZone(p netip.Prefix) string {
	step := 4
	if p.Addr().Is4() {
		step = 8
	}
	full, err := dns.ReverseAddr(p.Addr().String())
	if err != nil { // it is an address, so there is none
		return "."
	}
	labels := dns.SplitDomainName(full)
	own := (p.Addr().BitLen() - p.Bits() + step - 1) / step // labels that differ within the range
	return strings.Join(labels[own:], ".") + "."
}

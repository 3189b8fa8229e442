// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"

	"github.com/miekg/dns"
)

// responder makes replies of queries.
type responder struct {
	zone *Zone
	// forward asks other resolvers. The reply has the query's id.
	forward func(ctx context.Context, query *dns.Msg) (*dns.Msg, error)
}

// reply answers a query, of which at most limit bytes may be sent; nil: not at all.
func (r responder) reply(ctx context.Context, query *dns.Msg, limit int) *dns.Msg {
	if query.Response {
		return nil
	}
	reply := r.refusal(query)
	if reply == nil {
		reply = r.answer(ctx, query)
	}
	setEDNS(reply, query)
	fit(reply, limit)
	return reply
}

// refusal is the reply to a query that can't be answered, whatever its name; nil: it can.
func (r responder) refusal(query *dns.Msg) *dns.Msg {
	refuse := func(code int) *dns.Msg {
		m := new(dns.Msg).SetRcode(query, code)
		m.Opcode = query.Opcode
		return m
	}
	opt := query.IsEdns0()
	switch {
	case query.Opcode != dns.OpcodeQuery:
		return refuse(dns.RcodeNotImplemented)
	case len(query.Question) != 1:
		return refuse(dns.RcodeFormatError)
	case opt != nil && opt.Version() != 0:
		return refuse(dns.RcodeBadVers)
	case query.Question[0].Qclass != dns.ClassINET:
		return refuse(dns.RcodeRefused)
	}
	switch query.Question[0].Qtype {
	case dns.TypeAXFR, dns.TypeIXFR, dns.TypeMAILA, dns.TypeMAILB, dns.TypeOPT, dns.TypeTSIG, dns.TypeTKEY:
		return refuse(dns.RcodeRefused)
	}
	return nil
}

func (r responder) answer(ctx context.Context, query *dns.Msg) *dns.Msg {
	a := r.zone.Answer(query.Question[0])
	if !a.Ours {
		return r.pass(ctx, query)
	}
	reply := new(dns.Msg).SetRcode(query, a.Rcode)
	reply.Authoritative, reply.RecursionAvailable = true, true
	reply.Answer, reply.Ns, reply.Extra = a.Answer, a.Ns, a.Extra
	if a.Next == "" {
		return reply
	}
	rest := query.Copy()
	rest.Question[0].Name = a.Next
	more := r.pass(ctx, rest)
	reply.Rcode, reply.Ns = more.Rcode, more.Ns
	reply.Answer = append(reply.Answer, more.Answer...)
	return reply
}

// pass has another resolver answer.
func (r responder) pass(ctx context.Context, query *dns.Msg) *dns.Msg {
	reply, err := r.forward(ctx, query)
	if err != nil {
		reply = new(dns.Msg).SetRcode(query, dns.RcodeServerFailure)
		reply.RecursionAvailable = true
	}
	reply.Question = query.Question // in the client's spelling
	return reply
}

// setEDNS gives a reply an OPT record if, and only if, the query has one (RFC 6891, section 6.1.1).
func setEDNS(reply, query *dns.Msg) {
	kept := reply.Extra[:0]
	for _, rr := range reply.Extra {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	reply.Extra = kept
	if opt := query.IsEdns0(); opt != nil {
		reply.SetEdns0(ednsSize, opt.Do())
	} else if reply.Rcode > 0xf { // it has no place without
		reply.Rcode = dns.RcodeServerFailure
	}
}

// fit makes a reply no longer than limit bytes. Records of the additional section go first, without which the answer is
// complete; if others have to go, the reply says that it is truncated, and the client asks again by TCP.
func fit(reply *dns.Msg, limit int) {
	reply.Compress = true
	if reply.Len() > limit {
		opt := reply.IsEdns0()
		reply.Extra = nil
		if opt != nil {
			reply.Extra = []dns.RR{opt}
		}
	}
	reply.Truncate(limit)
	reply.Compress = true
}

// limitOf is how long a reply may be, in bytes.
func limitOf(query *dns.Msg, udp bool) int {
	if !udp {
		return dns.MaxMsgSize
	}
	opt := query.IsEdns0()
	if opt == nil {
		return dns.MinMsgSize
	}
	return max(dns.MinMsgSize, min(int(opt.UDPSize()), ednsSize))
}

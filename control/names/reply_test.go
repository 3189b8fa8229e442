// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// newResponder answers from the world; others know www.example.com, and can't be asked for www.example.net.
func newResponder(t testing.TB) responder {
	t.Helper()
	return responder{newWorld(t), func(_ context.Context, query *dns.Msg) (*dns.Msg, error) {
		reply := new(dns.Msg).SetReply(query)
		reply.SetEdns0(4096, true)
		switch q := query.Question[0]; {
		case strings.EqualFold(q.Name, "www.example.net."):
			return nil, errors.New("no answer")
		case !strings.EqualFold(q.Name, "www.example.com."):
			reply.Rcode = dns.RcodeNameError
		case q.Qtype == dns.TypeA:
			rr, err := dns.NewRR("www.example.com. 60 A 192.0.2.53")
			reply.Answer = []dns.RR{rr}
			return reply, err
		}
		return reply, nil
	}}
}

func newQuery(name string, kind uint16, edits ...func(*dns.Msg)) *dns.Msg {
	m := new(dns.Msg).SetQuestion(name, kind)
	for _, edit := range edits {
		edit(m)
	}
	return m
}

func edns(size uint16) func(*dns.Msg) { return func(m *dns.Msg) { m.SetEdns0(size, true) } }

// TestReply checks what of a reply is not in its records.
func TestReply(t *testing.T) {
	r := newResponder(t)
	for _, c := range []struct {
		what  string
		query *dns.Msg
		want  string // rcode, flags, number of answers, EDNS
	}{
		{"a name of the cluster", newQuery("single.default.svc.cluster.local.", dns.TypeA), "NOERROR aa ra 1"},
		{"with EDNS", newQuery("single.default.svc.cluster.local.", dns.TypeA, edns(4096)), "NOERROR aa ra 1 edns 1232 do"},
		{"a name that is not there", newQuery("nosuch.default.svc.cluster.local.", dns.TypeA), "NXDOMAIN aa ra 0"},
		{"a name of others", newQuery("www.example.com.", dns.TypeA), "NOERROR 1"},
		{"a name of others, with EDNS", newQuery("WWW.example.com.", dns.TypeA, edns(512)), "NOERROR 1 edns 1232 do"},
		{"a name that others lack", newQuery("nosuch.example.com.", dns.TypeA), "NXDOMAIN 0"},
		{"others do not answer", newQuery("www.example.net.", dns.TypeA), "SERVFAIL ra 0"},
		{"ExternalName", newQuery("foo.default.svc.cluster.local.", dns.TypeA), "NOERROR aa ra 2"},
		{"ExternalName without an address of the family", newQuery("foo.default.svc.cluster.local.", dns.TypeAAAA), "NOERROR aa ra 1"},
		{"a transfer", newQuery("cluster.local.", dns.TypeAXFR), "REFUSED 0"},
		{"another class", newQuery("version.bind.", dns.TypeTXT, func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), "REFUSED 0"},
		{"a notification", newQuery("cluster.local.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), "NOTIMP 0"},
		{"an update", newQuery("cluster.local.", dns.TypeSOA, func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }), "NOTIMP 0"},
		{"no question", &dns.Msg{}, "FORMERR 0"},
		{"two questions", newQuery("a.", dns.TypeA, func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), "FORMERR 0"},
		{"EDNS of a later version", newQuery("a.", dns.TypeA, edns(512), func(m *dns.Msg) { m.IsEdns0().SetVersion(1) }), "BADVERS 0 edns 1232 do"},
		{"a response", newQuery("a.", dns.TypeA, func(m *dns.Msg) { m.Response = true }), ""},
	} {
		c.query.Id = 77
		reply := r.reply(context.Background(), c.query, limitOf(c.query, true))
		if got := summary(reply); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
		if reply == nil {
			continue
		}
		if reply.Id != 77 || !reply.Response || c.query.Opcode == dns.OpcodeQuery && reply.RecursionDesired != c.query.RecursionDesired || len(c.query.Question) == 1 && reply.Question[0] != c.query.Question[0] {
			t.Errorf("%s: the header or the question is another: %v", c.what, reply)
		}
		if _, err := reply.Pack(); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
}

func summary(m *dns.Msg) string {
	if m == nil {
		return ""
	}
	s := map[int]string{dns.RcodeBadVers: "BADVERS"}[m.Rcode] // which has two names
	if s == "" {
		s = dns.RcodeToString[m.Rcode]
	}
	for _, flag := range []struct {
		is   bool
		name string
	}{{m.Authoritative, " aa"}, {m.RecursionAvailable, " ra"}, {m.Truncated, " tc"}} {
		if flag.is {
			s += flag.name
		}
	}
	s += fmt.Sprintf(" %d", len(m.Answer))
	if opt := m.IsEdns0(); opt != nil {
		s += fmt.Sprintf(" edns %d", opt.UDPSize())
		if opt.Do() {
			s += " do"
		}
	}
	return s
}

// TestTruncation: an answer is as long as the client's buffer lets it be, and no longer than a datagram that needs no
// fragments; by TCP it is whole.
func TestTruncation(t *testing.T) {
	z := NewZone("cluster.local", nil)
	z.OnService(nil, service1(t, "a/db", `clusterIP: None`))
	var endpoints []string
	for i := range 200 {
		endpoints = append(endpoints, fmt.Sprintf("{addresses: [10.4.0.%d]}", i))
	}
	z.OnEndpointSlice(nil, slice1(t, "s", "a/db", `{name: p, protocol: TCP, port: 1}`, strings.Join(endpoints, ", ")))
	r := responder{zone: z}
	for _, c := range []struct {
		what      string
		query     *dns.Msg
		udp       bool
		limit     int
		truncated bool
		least     int // answers
	}{
		{"without EDNS", newQuery("db.a.svc.cluster.local.", dns.TypeA), true, 512, true, 20},
		{"a small buffer", newQuery("db.a.svc.cluster.local.", dns.TypeA, edns(100)), true, 512, true, 20},
		{"a buffer", newQuery("db.a.svc.cluster.local.", dns.TypeA, edns(800)), true, 800, true, 40},
		{"a large buffer", newQuery("db.a.svc.cluster.local.", dns.TypeA, edns(65535)), true, 1232, true, 60},
		{"TCP", newQuery("db.a.svc.cluster.local.", dns.TypeA), false, 65535, false, 200},
		{"SRV by TCP", newQuery("_p._tcp.db.a.svc.cluster.local.", dns.TypeSRV), false, 65535, false, 200},
	} {
		reply := r.reply(context.Background(), c.query, limitOf(c.query, c.udp))
		raw, err := reply.Pack()
		if err != nil || len(raw) > c.limit || reply.Truncated != c.truncated || len(reply.Answer) < c.least {
			t.Errorf("%s: %d bytes, truncated %v, %d answers, %v", c.what, len(raw), reply.Truncated, len(reply.Answer), err)
		}
		if back := new(dns.Msg); back.Unpack(raw) != nil || (back.IsEdns0() == nil) != (c.query.IsEdns0() == nil) {
			t.Errorf("%s: EDNS %v for %v", c.what, back.IsEdns0(), c.query.IsEdns0())
		}
	}
}

// TestAdditionalFirst: an answer that fits without its additional section is not called truncated.
func TestAdditionalFirst(t *testing.T) {
	z := NewZone("cluster.local", nil)
	z.OnService(nil, service1(t, "a/db", `clusterIP: None`))
	var endpoints []string
	for i := range 10 {
		endpoints = append(endpoints, fmt.Sprintf("{addresses: [10.4.0.%d], hostname: h%d}", i, i))
	}
	z.OnEndpointSlice(nil, slice1(t, "s", "a/db", `{name: p, protocol: TCP, port: 1}`, strings.Join(endpoints, ", ")))
	query := newQuery("_p._tcp.db.a.svc.cluster.local.", dns.TypeSRV)
	reply := responder{zone: z}.reply(context.Background(), query, limitOf(query, true))
	if reply.Truncated || len(reply.Answer) != 10 || len(reply.Extra) != 0 {
		t.Errorf("truncated %v, %d answers, %d additional", reply.Truncated, len(reply.Answer), len(reply.Extra))
	}
}

// FuzzQuery: whatever is asked gets a reply that can be sent, is to the question, and is no longer than it may be.
func FuzzQuery(f *testing.F) {
	for _, m := range []*dns.Msg{
		newQuery("kubernetes.default.svc.cluster.local.", dns.TypeA, edns(4096)), newQuery("headless.default.svc.cluster.local.", dns.TypeSRV),
		newQuery("1.0.3.10.in-addr.arpa.", dns.TypePTR), newQuery("foo.", dns.TypeAAAA), newQuery(reverse("fd00::1"), dns.TypePTR), newQuery(".", dns.TypeANY),
	} {
		raw, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(raw, true)
		f.Add(raw, false)
	}
	r := newResponder(f)
	f.Fuzz(func(t *testing.T, raw []byte, udp bool) {
		query := new(dns.Msg)
		if query.Unpack(raw) != nil {
			return // the library refuses it
		}
		limit := limitOf(query, udp)
		reply := r.reply(context.Background(), query, limit)
		if reply == nil {
			return
		}
		out, err := reply.Pack()
		if err != nil {
			t.Fatalf("%v\nof %v\nto %v", err, reply, query)
		}
		if len(query.Question) == 1 && len(out) > limit {
			t.Errorf("%d bytes of %d", len(out), limit)
		}
		if reply.Id != query.Id || !reply.Response {
			t.Errorf("reply %v to %v", reply, query)
		}
		if len(query.Question) == 1 && query.Opcode == dns.OpcodeQuery && (len(reply.Question) != 1 || reply.Question[0] != query.Question[0]) {
			t.Errorf("reply %v to %v", reply, query)
		}
	})
}

func addrs(texts ...string) (all []netip.Addr) {
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

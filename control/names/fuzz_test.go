// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"testing"

	"github.com/miekg/dns"
)

// FuzzReply: whatever a client sends, and whatever a resolver says to it, the reply can be sent, and is no longer than the
// client takes.
func FuzzReply(f *testing.F) {
	z := newWorld(f)
	for _, name := range []string{".", "headless.default.svc.cluster.local.", "_https._tcp.headless.default.svc.cluster.local.", "github.io.", "foo", "1.0.3.10.in-addr.arpa.",
		"a\\.b.default.svc.cluster.local.", "bad.default.svc.cluster.local.", "long.default.svc.cluster.local.", "\\000.default.svc.cluster.local."} {
		for _, kind := range []uint16{dns.TypeA, dns.TypeSRV, dns.TypeANY, dns.TypePTR, 65535} {
			q := new(dns.Msg).SetQuestion(dns.Fqdn(name), kind)
			raw, err := q.Pack()
			if err != nil {
				f.Fatal(err)
			}
			f.Add(raw, true)
			q.SetEdns0(4096, true)
			if raw, err = q.Pack(); err != nil {
				f.Fatal(err)
			}
			f.Add(raw, false)
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, udp bool) {
		query := new(dns.Msg)
		if query.Unpack(raw) != nil {
			t.Skip()
		}
		r := responder{zone: z, forward: func(_ context.Context, query *dns.Msg) (*dns.Msg, error) {
			return new(dns.Msg).SetRcode(query, dns.RcodeNameError), nil
		}}
		limit := limitOf(query, udp)
		reply := r.reply(t.Context(), query, limit)
		if reply == nil {
			if !query.Response {
				t.Fatal("no reply")
			}
			return
		}
		packed, err := reply.Pack()
		if err != nil || len(packed) > limit || reply.Id != query.Id {
			t.Errorf("%d bytes of %d, %v, to\n%s", len(packed), limit, err, query)
		}
	})
}

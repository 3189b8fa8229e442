// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func TestParseResolvers(t *testing.T) {
	ours := addrs("10.96.0.10", "fd00::a")
	for _, c := range []struct{ text, want string }{
		{"nameserver 192.0.2.1\nnameserver 2001:db8::1 # comment\n", "192.0.2.1:53 [2001:db8::1]:53 2s"},
		{"options timeout:1 attempts:3\nnameserver 192.0.2.1\n", "192.0.2.1:53 1s"},
		{"options timeout:9\nnameserver 192.0.2.1\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4\n", "192.0.2.1:53 192.0.2.2:53 192.0.2.3:53 2s"},
		{"nameserver 10.96.0.10\nnameserver FD00::A\nnameserver 192.0.2.1\n", "192.0.2.1:53 2s; nameserver 10.96.0.10 is where waggle itself answers; nameserver FD00::A is where waggle itself answers"},
		{"nameserver 10.96.0.10\n", "2s; nameserver 10.96.0.10 is where waggle itself answers; it names no server"},
		{"nameserver here\nnameserver ::1\n", "[::1]:53 2s; nameserver here is not an IP address"},
		{"nameserver fe80::1%eth0\n", "[fe80::1%eth0]:53 2s"},
		{"search a b\n", "2s; it names no server"},
		{"", "2s; it names no server"},
	} {
		r, problems := parseResolvers(c.text, ours)
		var parts []string
		for _, s := range r.servers {
			parts = append(parts, s.String())
		}
		got := []string{strings.Join(append(parts, r.timeout.String()), " ")}
		for _, p := range problems {
			p, _, _ = strings.Cut(p, ":  ")
			got = append(got, p)
		}
		want := strings.Split(c.want, "; ")
		if !slices.EqualFunc(got, want, strings.HasPrefix) {
			t.Errorf("%q:\n got %q\nwant %q", c.text, got, want)
		}
	}
	if _, problems := readResolvers("/no/such", nil); len(problems) != 1 || !strings.Contains(problems[0], "/no/such") {
		t.Errorf("without a file: %q", problems)
	}
}

// resolver is one that tests ask, on a port of 127.0.0.1.
type resolver struct {
	at    netip.AddrPort
	asked atomic.Int32
}

// newResolver serves by UDP and TCP; a nil answer is none.
func newResolver(t *testing.T, answer func(query *dns.Msg, udp bool) *dns.Msg) *resolver {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &resolver{at: netip.MustParseAddrPort(packets.LocalAddr().String())}
	stream, err := net.Listen("tcp", r.at.String())
	if err != nil {
		t.Fatal(err)
	}
	for _, server := range []*dns.Server{{PacketConn: packets}, {Listener: stream}} {
		udp := server.PacketConn != nil
		server.Handler = dns.HandlerFunc(func(w dns.ResponseWriter, query *dns.Msg) {
			r.asked.Add(1)
			if reply := answer(query, udp); reply != nil {
				_ = w.WriteMsg(reply)
			}
		})
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() { _ = server.ActivateAndServe() }()
		<-started
		t.Cleanup(func() { _ = server.Shutdown() })
	}
	return r
}

func withCode(code int) func(*dns.Msg, bool) *dns.Msg {
	return func(query *dns.Msg, _ bool) *dns.Msg { return new(dns.Msg).SetRcode(query, code) }
}

func forwarderTo(all ...*resolver) *forwarder {
	f := newForwarder()
	r := resolvers{timeout: 200 * time.Millisecond}
	for _, one := range all {
		r.servers = append(r.servers, one.at)
	}
	f.use(r)
	return f
}

// TestForward: one resolver after the other is asked until one has an answer, and the one that had is asked first the
// next time.
func TestForward(t *testing.T) {
	silent := newResolver(t, func(*dns.Msg, bool) *dns.Msg { return nil })
	failing := newResolver(t, withCode(dns.RcodeServerFailure))
	other := newResolver(t, func(query *dns.Msg, _ bool) *dns.Msg { // an answer to another question is none
		reply := new(dns.Msg).SetReply(query)
		reply.Question[0].Name = "other."
		return reply
	})
	good := newResolver(t, withCode(dns.RcodeNameError))
	query := newQuery("a.example.", dns.TypeA, edns(4096))
	f := forwarderTo(silent, failing, other, good)
	for range 2 {
		reply, err := f.ask(context.Background(), query)
		if err != nil || reply.Rcode != dns.RcodeNameError || reply.Id != query.Id {
			t.Fatalf("%v %v", reply, err)
		}
	}
	if s, fl, o, g := silent.asked.Load(), failing.asked.Load(), other.asked.Load(), good.asked.Load(); s != 1 || fl != 1 || o != 1 || g != 2 {
		t.Errorf("asked %d, %d, %d, %d times", s, fl, o, g)
	}
	if reply, err := forwarderTo(failing, silent).ask(context.Background(), query); err != nil || reply.Rcode != dns.RcodeServerFailure {
		t.Errorf("none has an answer: %v %v", reply, err)
	}
	if reply, err := forwarderTo(silent).ask(context.Background(), query); err == nil {
		t.Errorf("none answers: %v", reply)
	}
	if _, err := newForwarder().ask(context.Background(), query); err != errNoResolver {
		t.Errorf("there is none: %v", err)
	}
}

// TestForwardTruncated: what does not fit a datagram is fetched by TCP.
func TestForwardTruncated(t *testing.T) {
	r := newResolver(t, func(query *dns.Msg, udp bool) *dns.Msg {
		reply := new(dns.Msg).SetReply(query)
		reply.Truncated = udp
		for i := range 100 {
			if !udp {
				rr, _ := dns.NewRR(fmt.Sprintf("a.example. A 192.0.2.%d", i))
				reply.Answer = append(reply.Answer, rr)
			}
		}
		return reply
	})
	reply, err := forwarderTo(r).ask(context.Background(), newQuery("a.example.", dns.TypeA))
	if err != nil || reply.Truncated || len(reply.Answer) != 100 {
		t.Errorf("%v %v", reply, err)
	}
}

// TestForwardBounded: there is an end to how many queries wait for others.
func TestForwardBounded(t *testing.T) {
	f := forwarderTo(newResolver(t, withCode(dns.RcodeSuccess)))
	for range maxForwarded {
		f.free <- struct{}{}
	}
	if _, err := f.ask(context.Background(), newQuery("a.", dns.TypeA)); err != errBusy {
		t.Errorf("error %v", err)
	}
	<-f.free
	if _, err := f.ask(context.Background(), newQuery("a.", dns.TypeA)); err != nil {
		t.Errorf("error %v", err)
	}
}

// TestLoop: a resolver that asks us what we ask it is found, left out, and asked again when it has stopped that.
func TestLoop(t *testing.T) {
	var f *forwarder
	var loops atomic.Bool
	loops.Store(true)
	around := newResolver(t, func(query *dns.Msg, _ bool) *dns.Msg {
		if loops.Load() && f.returned(query.Question[0].Name) { // as the server does with what it is asked
			return nil
		}
		return new(dns.Msg).SetRcode(query, dns.RcodeNameError)
	})
	good := newResolver(t, withCode(dns.RcodeNameError))
	f = forwarderTo(around, good)
	f.probe(context.Background(), false)
	if got := f.loops(); len(got) != 1 || !strings.Contains(got[0], "nameserver 127.0.0.1 asks waggle what waggle asks it") {
		t.Fatalf("loops %q", got)
	}
	if servers := f.order().servers; !slices.Equal(servers, []netip.AddrPort{good.at}) {
		t.Errorf("servers %v", servers)
	}
	asked := good.asked.Load()
	f.probe(context.Background(), true)
	if len(f.loops()) != 1 || good.asked.Load() != asked {
		t.Errorf("again: loops %q; the other was probed %d times", f.loops(), good.asked.Load()-asked)
	}
	loops.Store(false)
	f.probe(context.Background(), true)
	if got := f.loops(); len(got) != 0 {
		t.Errorf("afterwards: %q", got)
	}
	if servers := f.order().servers; len(servers) != 2 {
		t.Errorf("servers %v", servers)
	}
}

// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	stdmaps "maps"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
)

// entry is one of the kernel's: the client's tuple, and the answers'.
func entry(proto uint8, src, dst, replySrc, replyDst string) conntrack.Entry {
	tuple := func(src, dst string) conntrack.Tuple {
		return conntrack.Tuple{Src: netip.MustParseAddrPort(src), Dst: netip.MustParseAddrPort(dst)}
	}
	e := conntrack.Entry{Proto: proto, Orig: tuple(src, dst), Reply: tuple(replySrc, replyDst), Timeout: time.Hour}
	if proto == unix.IPPROTO_TCP {
		e.State = conntrack.TCPEstablished
	}
	return e
}

const client, frontend, pod, masked = "192.0.2.1:40000", "10.96.0.1:80", "10.1.0.1:8080", "10.0.0.1:5000"

func inState(proto, state uint8) conntrack.Entry {
	e := entry(proto, client, frontend, pod, client)
	e.State = state
	return e
}

func TestAdoptable(t *testing.T) {
	zone, expiring := inState(unix.IPPROTO_TCP, conntrack.TCPEstablished), inState(unix.IPPROTO_UDP, 0)
	zone.Zone, expiring.Timeout = 7, time.Second
	for _, c := range []struct {
		name  string
		entry conntrack.Entry
		want  bool
	}{
		{"DNAT", inState(unix.IPPROTO_TCP, conntrack.TCPEstablished), true},
		{"DNAT and SNAT", entry(unix.IPPROTO_TCP, client, frontend, pod, masked), true},
		{"the port only", entry(unix.IPPROTO_UDP, client, frontend, "10.96.0.1:81", client), true},
		{"SCTP", entry(unix.IPPROTO_SCTP, client, frontend, pod, client), true},
		{"IPv6", entry(unix.IPPROTO_TCP, "[fd00::1]:1", "[fd00::2]:2", "[fd00::3]:3", "[fd00::1]:1"), true},
		{"just begun", inState(unix.IPPROTO_TCP, conntrack.TCPSynSent), true},
		{"half closed", inState(unix.IPPROTO_TCP, conntrack.TCPFinWait), true},
		{"over", inState(unix.IPPROTO_TCP, conntrack.TCPTimeWait), false},
		{"reset", inState(unix.IPPROTO_TCP, conntrack.TCPClose), false},
		{"SCTP, over", inState(unix.IPPROTO_SCTP, conntrack.SCTPClosed), false},
		{"about to expire", expiring, false},
		{"SNAT only", entry(unix.IPPROTO_TCP, client, frontend, frontend, masked), false},
		{"no NAT", entry(unix.IPPROTO_UDP, client, frontend, frontend, client), false},
		{"ICMP", entry(unix.IPPROTO_ICMP, client, frontend, pod, client), false},
		{"another zone", zone, false},
	} {
		if got := isServed(c.entry) && !isEnding(c.entry); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
}

func TestForeign(t *testing.T) {
	halves := foreign(entry(unix.IPPROTO_TCP, client, frontend, pod, masked))
	for i, want := range []string{
		"192.0.2.1:40000 > 10.96.0.1:80 = 10.0.0.1:5000 > 10.1.0.1:8080",
		"10.1.0.1:8080 > 10.0.0.1:5000 = 10.96.0.1:80 > 192.0.2.1:40000",
	} {
		h := halves[i]
		if got := fmt.Sprintf("%s > %s = %s > %s", h.Key.Src, h.Key.Dst, h.To.Src, h.To.Dst); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func noShared() (func(netip.AddrPort) bool, error) {
	return func(netip.AddrPort) bool { return false }, nil
}

// TestOwnConnections: connections that are not to a service are adopted if they come from shared
// ports.
func TestOwnConnections(t *testing.T) {
	const peer, self = "192.0.2.9:443", "10.0.0.1:30080"
	shared := func(from netip.AddrPort) bool { return from == netip.MustParseAddrPort(self) }
	for _, c := range []struct {
		name  string
		entry conntrack.Entry
		want  bool
	}{
		{"the node's own", entry(unix.IPPROTO_TCP, self, peer, peer, self), true},
		{"a masqueraded pod's", entry(unix.IPPROTO_UDP, "10.244.0.5:40000", peer, peer, self), true},
		{"from another port", entry(unix.IPPROTO_TCP, "10.0.0.1:40000", peer, peer, "10.0.0.1:40000"), false},
		{"a pod's", entry(unix.IPPROTO_TCP, "10.244.0.5:30080", peer, peer, "10.244.0.5:30080"), false},
		{"to a service", entry(unix.IPPROTO_TCP, "10.244.0.5:40000", frontend, peer, self), false},
		{"ICMP", entry(unix.IPPROTO_ICMP, self, peer, peer, self), false},
	} {
		if got := isOwn(c.entry, shared); got != c.want {
			t.Errorf("%s: got %t, want %t", c.name, got, c.want)
		}
	}
	for i, want := range []string{
		"10.0.0.1:30080 > 192.0.2.9:443, leaving", "192.0.2.9:443 > 10.0.0.1:30080, outside",
	} {
		r := own(entry(unix.IPPROTO_UDP, "10.244.0.5:40000", peer, peer, self))[i]
		if got := fmt.Sprintf("%s > %s, %s", r.Key.Src, r.Key.Dst, bpf.ZoneName(r.Key.Zone)); got != want || r.To != r.Key {
			t.Errorf("got %s, to %+v, want %s", got, r.To, want)
		}
	}
}

// TestKeepNAT: the kernel's NAT is kept until the last connection that needs it has ended.
func TestKeepNAT(t *testing.T) {
	netnstest.New(t)
	var warning error
	takeover := &Takeover{log: loadertest.Quiet(), warn: func(err error) { warning = err }, pending: map[Step]bool{Attaching: true}}
	expect := func(what string, want bool) {
		t.Helper()
		kept, err := keepsNAT()
		must(t, err)
		if kept != want {
			t.Errorf("%s: kept %t, want %t", what, kept, want)
		}
		if warning != nil {
			t.Errorf("%s: %v", what, warning)
		}
	}
	expect("at first", false)
	takeover.keep()
	expect("with a connection", true)
	must(t, keepNAT()) // as the next agent would
	takeover.Counted(0)
	expect("before all have been taken over", true)
	delete(takeover.pending, Attaching)
	takeover.Counted(2)
	expect("with one connection", true)
	takeover.Counted(0)
	expect("with none", false)
	takeover.Counted(0)
	_, err := ReleaseNAT()
	must(t, err)
	expect("at last", false)
}

// TestTakeoverSteps: if an agent ends between the two steps, the next one takes over what the
// kernel has begun to translate meanwhile.
func TestTakeoverSteps(t *testing.T) {
	netnstest.New(t)
	dp, _ := loadertest.Load(t)
	expect := func(what string, want map[Step]bool) {
		t.Helper()
		takeover, err := New(dp, noShared, func(error) {}, loadertest.Quiet())
		must(t, err)
		if !stdmaps.Equal(takeover.pending, want) {
			t.Errorf("%s: pending %v, want %v", what, takeover.pending, want)
		}
	}
	expect("at first", map[Step]bool{Attaching: true, Publishing: true})
	must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "w0"}, PeerName: "w1"}))
	link, err := netlink.LinkByName("w0")
	must(t, err)
	must(t, dp.AttachTC(link.Attrs().Index, loader.External))
	expect("attached", map[Step]bool{Publishing: true})
	at := netip.MustParseAddrPort(frontend)
	must(t, maps.NewServices(dp).Put(maps.Frontend{Addr: at.Addr(), Port: at.Port(), Proto: unix.IPPROTO_TCP}, maps.Service{}))
	expect("in force", map[Step]bool{})
}

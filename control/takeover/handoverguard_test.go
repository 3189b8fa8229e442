// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/maps"
)

// TestGuard: the guard drops packets of its tuples that begin a connection, and of no others.
// Packets of existing connections pass.
func TestGuard(t *testing.T) {
	n := netnstest.New(t)
	must(t, netlink.LinkSetUp(n.Link("lo")))
	must(t, keepNAT()) // so that connections are tracked
	g, err := newGuard()
	must(t, err)
	listener, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer listener.Close()
	to := listener.LocalAddr().(*net.UDPAddr).AddrPort()
	client := func(port uint16) *net.UDPConn {
		c, err := net.DialUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: int(port)}, net.UDPAddrFromAddrPort(to))
		must(t, err)
		t.Cleanup(func() { c.Close() })
		return c
	}
	held := func(port uint16) maps.Tuple {
		return maps.Tuple{Src: netip.AddrPortFrom(to.Addr(), port), Dst: to, Proto: unix.IPPROTO_UDP}
	}
	arrives := func(what string, c *net.UDPConn, want bool) {
		t.Helper()
		message := fmt.Sprint(what, time.Now())
		_, err := c.Write([]byte(message))
		must(t, err)
		// The loopback device delivers a datagram before the call returns.
		must(t, listener.SetReadDeadline(time.Now().Add(100*time.Millisecond)))
		buffer := make([]byte, 1000)
		size, err := listener.Read(buffer)
		if got := err == nil && string(buffer[:size]) == message; got != want {
			t.Errorf("%s: arrives %t (%v), want %t", what, got, err, want)
		}
	}
	old, first, second := client(41000), client(41001), client(41002)
	arrives("before", old, true)
	_, err = listener.WriteToUDPAddrPort([]byte("answer"), netip.AddrPortFrom(to.Addr(), 41000))
	must(t, err)
	must(t, g.hold([]maps.Tuple{held(41000), held(41001)}))
	arrives("held, and known", old, true)
	arrives("held, and new", first, false)
	arrives("not held", second, true)
	must(t, g.hold(nil))
	arrives("no longer held", first, true)
	must(t, g.remove())
}

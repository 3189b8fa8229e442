// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"testing"

	"github.com/waggle-lb/waggle/test/topo"
)

func (h *holder) probe(a netip.Addr) (mac net.HardwareAddr) {
	h.t.Helper()
	h.do(func() (err error) {
		mac, err = h.Probe(context.Background(), a, []int{h.ifindex})
		return err
	})
	return mac
}

// TestProbe: a host that has the address is found: its kernel answers, or its waggle.
func TestProbe(t *testing.T) {
	n := newNetwork(t, topo.Defaults())
	h, other := newHolder(t, n.Nodes[0], "eth0", false), newHolder(t, n.Nodes[1], "eth0", false)
	laptop, err := n.Laptop.MAC("eth0")
	must(t, err)
	for _, a := range vips {
		expectMAC(t, a.String()+", which no host has", h.probe(a), nil)
	}
	for _, a := range []netip.Addr{n.Laptop.IP4, n.Laptop.IP6} {
		expectMAC(t, a.String(), h.probe(a), laptop)
	}
	must(t, other.Extend(forLong))
	other.hold(vips...)
	for _, a := range vips {
		expectMAC(t, a.String(), h.probe(a), other.mac)
	}
	if entry := neighbour(t, n.Laptop, "eth0", vip4); entry != nil {
		t.Errorf("the laptop has learned from a question: %v", entry)
	}
}

// TestProbeOwn: this node's other device on the same network answers, too, and is none other.
func TestProbeOwn(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	must(t, n.AddUplink(n.Nodes[0], "eth5", netip.PrefixFrom(vip4, 32), netip.PrefixFrom(vip6, 128)))
	for _, a := range vips {
		if resolve(t, n.Laptop, "eth0", a) == nil {
			t.Errorf("%s: the node does not answer the laptop, so that the rest shows nothing", a)
		}
		expectMAC(t, a.String(), h.probe(a), nil)
	}
}

// TestProbeEnds: with its context, or with an error that names address and device.
func TestProbeEnds(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	expectError(t, "a probe that is cancelled", h.node.Do(func() error {
		_, err := h.Probe(ctx, never, []int{h.ifindex})
		return err
	}), context.Canceled)
	err := h.node.Do(func() error {
		_, err := h.Probe(context.Background(), never, []int{9999})
		return err
	})
	const want = "probing for the address 192.168.1.241 on device 9999: reading the device: Link not found"
	if err == nil || err.Error() != want {
		t.Errorf("Probe: %v, want %s", err, want)
	}
}

// TestProbeMany: addresses that are asked for at one time share a socket for each family, and get their own answers.
func TestProbeMany(t *testing.T) {
	n := newNetwork(t, topo.Defaults())
	h := newHolder(t, n.Nodes[0], "eth0", false)
	laptop, err := n.Laptop.MAC("eth0")
	must(t, err)
	want := map[netip.Addr]net.HardwareAddr{n.Laptop.IP4: laptop, n.Laptop.IP6: laptop}
	for i := range 200 {
		want[netip.AddrFrom4([4]byte{192, 168, 1, byte(30 + i)})] = nil
	}
	found := map[netip.Addr]net.HardwareAddr{}
	var mu sync.Mutex
	var all sync.WaitGroup
	most := 0
	for a := range want {
		all.Go(func() {
			mac := h.probe(a)
			h.probing.Lock()
			sockets := len(h.probers)
			h.probing.Unlock()
			mu.Lock()
			defer mu.Unlock()
			found[a], most = mac, max(most, sockets)
		})
	}
	all.Wait()
	for a, mac := range want {
		expectMAC(t, a.String(), found[a], mac)
	}
	if most > 2 {
		t.Errorf("%d sockets at one time, want one for each family", most)
	}
	if left := len(h.probers); left > 0 {
		t.Errorf("%d sockets are left open", left)
	}
}

// TestProbeAfterFailure: a probe that would share a socket that has failed returns its error. Else the lack of an answer would mean that
// the address is free.
func TestProbeAfterFailure(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	ask := func() (q *inquiry, p *prober, err error) {
		q = &inquiry{never, make(chan answer, 1)}
		err = h.node.Do(func() (err error) { p, err = h.joinProber(h.ifindex, q); return err })
		return q, p, err
	}
	first, p, err := ask()
	must(t, err)
	link, err := h.node.Link("eth0")
	must(t, err)
	must(t, h.node.Netlink().LinkSetDown(link))
	failure := (<-first.answer).err
	if _, _, err := ask(); err == nil || err != failure {
		t.Errorf("after %v: %v", failure, err)
	}
	h.leaveProber(p, first)
	must(t, h.node.Netlink().LinkSetUp(link))
	second, p, err := ask()
	must(t, err)
	h.leaveProber(p, second)
}

// SPDX-License-Identifier: Apache-2.0

package layer2

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"

	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestMoves: what the new holder announces, unasked, moves the entry of a client's kernel.
func TestMoves(t *testing.T) {
	n := newNetwork(t, topo.Defaults())
	first, second := newHolder(t, n.Nodes[0], "eth0", false), newHolder(t, n.Nodes[1], "eth0", false)
	must(t, errors.Join(first.Extend(forLong), second.Extend(forLong)))
	first.hold(vips...)
	for _, a := range vips {
		expectMAC(t, a.String(), resolve(t, n.Laptop, "eth0", a), first.mac)
	}
	wire, err := n.Laptop.Capture("eth0")
	must(t, err)
	for _, a := range vips {
		first.do(func() error { return first.Release(a) })
	}
	second.hold(vips...)
	for _, a := range vips {
		eventually(t, "moved", func() bool {
			entry := neighbour(t, n.Laptop, "eth0", a)
			return entry != nil && entry.HardwareAddr.String() == second.mac.String()
		})
		if c := second.counts(a); c.Answered != 0 {
			t.Errorf("%s: the client has asked: %+v", a, c)
		}
	}
	said := map[string]int{}
	_, err = wire.Wait(topo.Patient(10*time.Second), func(f topo.Frame) bool {
		if !f.Outgoing {
			said[announcement(f.Data, second.mac)]++
		}
		return said["request"] >= 3 && said["reply"] >= 3 && said["advertisement"] >= 3
	})
	if err != nil {
		t.Errorf("%v of %v", err, said)
	}
}

// announcement says what a frame is, if it says that one of the addresses has the MAC.
func announcement(b []byte, mac net.HardwareAddr) string {
	p := gopacket.NewPacket(b, layers.LayerTypeEthernet, gopacket.Default)
	if arp, ok := p.Layer(layers.LayerTypeARP).(*layers.ARP); ok {
		same := slices.Equal(arp.SourceProtAddress, arp.DstProtAddress) && slices.Equal(arp.SourceProtAddress, vip4.AsSlice())
		if !same || !slices.Equal(arp.SourceHwAddress, mac) {
			return ""
		}
		return map[uint16]string{layers.ARPRequest: "request", layers.ARPReply: "reply"}[arp.Operation]
	}
	na, ok := p.Layer(layers.LayerTypeICMPv6NeighborAdvertisement).(*layers.ICMPv6NeighborAdvertisement)
	if !ok || na.Flags != 0x20 || !na.TargetAddress.Equal(vip6.AsSlice()) || len(na.Options) != 1 || !slices.Equal(na.Options[0].Data, mac) {
		return ""
	}
	return "advertisement"
}

// TestReleaseEndsAnnouncing: what was to be repeated is not, once the address is another node's.
func TestReleaseEndsAnnouncing(t *testing.T) {
	n := newNetwork(t, topo.Defaults())
	h := newHolder(t, n.Nodes[0], "eth0", false)
	must(t, h.Extend(forLong))
	h.hold(vips...)
	for _, a := range vips {
		h.do(func() error { return h.Release(a) })
	}
	if len(h.waves)+len(h.ports)+len(h.places)+len(h.ours)+len(h.groups.members) != 0 {
		t.Errorf("left: %+v", h.Wire)
	}
}

// TestLapsed: a process that was stopped for too long goes on with nothing of what it held.
func TestLapsed(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	expectError(t, "Hold before Extend", h.node.Do(func() error { return h.Hold(vip4, []int{h.ifindex}) }), ErrLapsed)
	must(t, h.Extend(forLong))
	h.hold(vips...)
	must(t, h.Extend(time.Millisecond)) // and is stopped
	eventually(t, "over", func() bool { left, err := h.Remaining(); return err == nil && left == 0 })
	for range 2 {
		expectError(t, "Extend", h.Extend(forLong), ErrLapsed)
		expectError(t, "Hold", h.node.Do(func() error { return h.Hold(never, []int{h.ifindex}) }), ErrLapsed)
	}
	if until, err := maps.NewAnnounced(h.dp).Until(); err != nil || until > maps.Monotonic() {
		t.Errorf("the programs answer until %s (%v)", until, err)
	}
	must(t, h.Drop())
	expectHeld(t, h.Wire, map[netip.Addr][]int{})
	must(t, h.Extend(forLong))
	h.hold(vip4)
	if left, err := h.Remaining(); err != nil || left <= 0 {
		t.Errorf("Remaining: %s, %v", left, err)
	}
}

func expectError(t *testing.T, what string, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func expectHeld(t *testing.T, w *Wire, want map[netip.Addr][]int) {
	t.Helper()
	got, err := w.Held()
	must(t, err)
	for _, ifindexes := range got {
		slices.Sort(ifindexes)
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b })); diff != "" {
		t.Errorf("held (-want +got):\n%s", diff)
	}
}

// TestRestart: the next process finds what is held, and goes on with it.
func TestRestart(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	must(t, n.AddEthernet(n.Nodes[0].Host))
	h := newHolder(t, n.Nodes[0], "eth0", false)
	eth1, err := h.node.Link("eth1")
	must(t, err)
	other := eth1.Attrs().Index
	must(t, h.Extend(forLong))
	h.hold(vip4)
	h.do(func() error { return h.Hold(vip6, []int{h.ifindex, other}) })
	both := []int{h.ifindex, other}
	slices.Sort(both)
	must(t, h.Close())

	again := *h
	again.Wire = New(h.dp, loadertest.Quiet())
	defer again.Close()
	if left, err := again.Remaining(); err != nil || left <= 0 {
		t.Errorf("Remaining: %s, %v", left, err)
	}
	expectHeld(t, again.Wire, map[netip.Addr][]int{vip4: {h.ifindex}, vip6: both})
	if groupsOf(t, h.node.Host, "eth0")["ff0200000000000000000001ff000240"] {
		t.Error("the group outlives the process, so that the rest shows nothing")
	}
	again.hold(vip6) // on one device from now on
	expectHeld(t, again.Wire, map[netip.Addr][]int{vip4: {h.ifindex}, vip6: {h.ifindex}})
	if !groupsOf(t, h.node.Host, "eth0")["ff0200000000000000000001ff000240"] {
		t.Error("the group is not joined again")
	}
	again.do(func() error { return again.Release(vip4) })
	expectHeld(t, again.Wire, map[netip.Addr][]int{vip6: {h.ifindex}})
	all, err := maps.NewAnnounced(h.dp).All()
	must(t, err)
	if len(all) != 1 || all[maps.Place{Addr: vip6, Ifindex: h.ifindex}].MAC.String() != h.mac.String() {
		t.Errorf("the map announced: %v", all)
	}
}

// TestGroups: hosts ask for addresses by groups, which addresses share, and of which a socket can join a few hundred only.
func TestGroups(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	must(t, h.Extend(forLong))
	twin := netip.MustParseAddr("fd00:192:168:2::240")
	const group = "ff0200000000000000000001ff000240"
	h.hold(vip6, twin, vip4)
	for i, a := range []netip.Addr{vip6, twin} {
		if !groupsOf(t, h.node.Host, "eth0")[group] {
			t.Errorf("after %d were released, the node is not in the group", i)
		}
		h.do(func() error { return h.Release(a) })
	}
	if groupsOf(t, h.node.Host, "eth0")[group] {
		t.Error("the node stays in the group")
	}
	before := len(groupsOf(t, h.node.Host, "eth0"))
	const many = 3000
	var addrs []netip.Addr
	for i := range many {
		addrs = append(addrs, netip.MustParseAddr(fmt.Sprintf("fd00:192:168:1::1:%x", i)))
	}
	h.hold(addrs...)
	if got := len(groupsOf(t, h.node.Host, "eth0")) - before; got != many {
		t.Errorf("the node is in %d more groups, want %d", got, many)
	}
	must(t, h.Drop())
	if got := len(groupsOf(t, h.node.Host, "eth0")) - before; got != 0 {
		t.Errorf("the node stays in %d groups", got)
	}
}

// TestHoldFails: the error names address and device, and other devices are not affected.
func TestHoldFails(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	must(t, h.Extend(forLong))
	lo, err := h.node.Link("lo")
	must(t, err)
	for ifindex, want := range map[int]string{
		9999:             "address 192.168.1.240 on device 9999: reading the device: Link not found",
		lo.Attrs().Index: fmt.Sprintf("address 192.168.1.240 on device %d: the device lo has no Ethernet address", lo.Attrs().Index),
	} {
		err := h.node.Do(func() error { return h.Hold(vip4, []int{ifindex, h.ifindex}) })
		if err == nil || err.Error() != want {
			t.Errorf("Hold: %v, want %s", err, want)
		}
		expectHeld(t, h.Wire, map[netip.Addr][]int{vip4: {h.ifindex}})
		if err := h.node.Do(func() error { return h.Hold(vip4, []int{ifindex}) }); err == nil || err.Error() != want {
			t.Errorf("Hold: %v, want %s", err, want)
		}
		expectHeld(t, h.Wire, map[netip.Addr][]int{})
	}
	expectMAC(t, vip4.String(), resolve(t, n.Laptop, "eth0", vip4), nil)
}

// TestRefresh: a device that gets another MAC has it answered, and announced.
func TestRefresh(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	must(t, h.Extend(forLong))
	h.hold(vips...)
	for _, a := range vips {
		expectMAC(t, a.String(), resolve(t, n.Laptop, "eth0", a), h.mac)
	}
	link, err := h.node.Link("eth0")
	must(t, err)
	other := net.HardwareAddr{0x02, 0, 0, 0, 0x12, 0x34}
	must(t, h.node.Netlink().LinkSetHardwareAddr(link, other))
	h.do(h.Refresh)
	for _, a := range vips {
		eventually(t, "moved", func() bool {
			entry := neighbour(t, n.Laptop, "eth0", a)
			return entry != nil && entry.HardwareAddr.String() == other.String()
		})
		expectMAC(t, a.String(), h.counts(a).MAC, other)
		expectMAC(t, a.String(), resolve(t, n.Laptop, "eth0", a), other)
	}
	must(t, h.node.DelLink("eth0"))
	h.do(h.Refresh)
}

// TestDevices: those that answer, with the subnets by which an address finds its device.
func TestDevices(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	must(t, n.AddEthernet(n.Nodes[0].Host))
	h := newHolder(t, n.Nodes[0], "eth0", false)
	eth1, err := h.node.Link("eth1")
	must(t, err)
	list := func() (names []string, subnets []netip.Prefix) {
		h.do(func() error {
			all, err := h.Devices()
			for _, d := range all {
				names, subnets = append(names, d.Name), append(subnets, d.Subnets...)
				if !d.LinkLocal.IsLinkLocalUnicast() || len(d.MAC) != 6 {
					t.Errorf("%+v", d)
				}
			}
			if with := WithSubnet(all, vip4); len(with) != 1 || with[0].Name != "eth0" {
				t.Errorf("%s: %v", vip4, with)
			}
			if with := WithSubnet(all, netip.MustParseAddr("203.0.113.1")); with != nil {
				t.Errorf("203.0.113.1: %v", with)
			}
			return err
		})
		return names, subnets
	}
	names, subnets := list()
	if want := []string{"eth0"}; !slices.Equal(names, want) {
		t.Errorf("devices %v, want %v", names, want)
	}
	for _, want := range []string{"192.168.1.0/24", "fd00:192:168:1::/64"} {
		if !slices.Contains(subnets, netip.MustParsePrefix(want)) {
			t.Errorf("eth0 has the subnets %v, want %s", subnets, want)
		}
	}
	table := maps.NewDevices(h.dp)
	h.do(func() error { return table.Put(eth1.Attrs().Index, maps.Device{EgressHook: true, Ethernet: true}) })
	if names, _ := list(); !slices.Equal(names, []string{"eth0", "eth1"}) {
		t.Errorf("devices %v", names)
	}
	must(t, h.node.Netlink().LinkSetDown(eth1))
	if names, _ := list(); !slices.Equal(names, []string{"eth0"}) {
		t.Errorf("devices %v, of which eth1 is down", names)
	}
	must(t, h.node.Netlink().LinkSetUp(eth1))
	for _, d := range []maps.Device{{EgressHook: true, Ethernet: true, Pod: true}, {EgressHook: true}, {Ethernet: true}} {
		h.do(func() error { return table.Put(eth1.Attrs().Index, d) })
		if names, _ := list(); !slices.Equal(names, []string{"eth0"}) {
			t.Errorf("devices %v, where eth1 is %+v", names, d)
		}
	}
}

// TestLapsedIsNotAnnounced: what a process that was stopped wakes up to repeat.
func TestLapsedIsNotAnnounced(t *testing.T) {
	n := newNetwork(t, topo.Options{Nodes: 1})
	h := newHolder(t, n.Nodes[0], "eth0", false)
	must(t, h.Extend(forLong))
	h.hold(vips...)
	must(t, h.Extend(time.Millisecond))
	eventually(t, "over", func() bool { left, err := h.Remaining(); return err == nil && left == 0 })
	wire, err := n.Laptop.Capture("eth0")
	must(t, err)
	eventually(t, "at an end", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.waves) == 0 })
	frames, err := wire.Stop()
	must(t, err)
	for _, f := range frames {
		if said := announcement(f.Data, h.mac); said != "" {
			t.Errorf("a %s after the time is over", said)
		}
	}
}

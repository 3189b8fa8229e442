// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	gomaps "maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/test/await"
)

// readFacts reads everything.
func readFacts(nodeIPs []netip.Addr) (*nodeFacts, error) {
	var v kernelView
	_, err := v.update(everything)
	return v.facts(nodeIPs), err
}

// viewFixture is a view of a namespace that follows the kernel's events.
type viewFixture struct {
	netnstest.Namespace
	t         *testing.T
	elsewhere netnstest.Namespace

	mu      sync.Mutex
	view    kernelView
	changes []Change // that were read
}

func newViewFixture(t *testing.T) *viewFixture {
	t.Helper()
	f := &viewFixture{Namespace: netnstest.New(t), t: t}
	other := make(chan netnstest.Namespace)
	go func() { other <- netnstest.New(t) }()
	f.elsewhere = <-other
	w := &Watch{
		Log:    loadertest.Quiet(),
		Routed: func() {},
		Moved:  func(int, netip.Addr, net.HardwareAddr) {},
		Routes: func(ifindex int) bool {
			f.mu.Lock()
			defer f.mu.Unlock()
			return f.view.routes[ifindex].elsewhere
		},
		NewPods: func(*net.IPNet, *netlink.NexthopInfo) bool { return false },
		Changed: func(change Change) {
			f.mu.Lock()
			defer f.mu.Unlock()
			change.devices = gomaps.Clone(change.devices)
			f.changes = append(f.changes, change)
			before := described(f.view.facts(nil))
			changed, err := f.view.update(change)
			if err != nil {
				t.Error(err)
			}
			if after := described(f.view.facts(nil)); !changed && after != before {
				t.Errorf("by %+v nothing is said to have changed, but there was\n%s, and is\n%s", change, before, after)
			}
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := f.Run(func() { w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return f
}

// described returns what roles depend on.
func described(facts *nodeFacts) string {
	var lines []string
	for _, f := range facts.devices {
		role, _ := DeviceRules{}.role(f)
		master := ""
		if f.master != nil {
			master = f.master.link.Attrs().Name
		}
		lines = append(lines, fmt.Sprintf("%s %s: %q, port of %q, lower %t, elsewhere %t, addresses %v, subnet %t, leads elsewhere %t, everywhere %t",
			f.link.Attrs().Name, f.link.Type(), role, master, f.isLower, f.link.Attrs().NetNsID >= 0, f.local, f.hasSubnet,
			f.routes.elsewhere, f.routes.isDefault))
	}
	return strings.Join(lines, "\n")
}

// follows makes a change, and waits until the view equals a fresh look.
func (f *viewFixture) follows(what string, change func() error) {
	f.t.Helper()
	must(f.t, change())
	await.Until(f.t, func() (string, bool) {
		fresh, err := readFacts(nil)
		must(f.t, err)
		f.mu.Lock()
		defer f.mu.Unlock()
		want, got := described(fresh), described(f.view.facts(nil))
		return fmt.Sprintf("after %s:\n%s\n\nwant:\n%s", what, got, want), got == want
	})
}

// A view that follows the kernel's events ends up equal to a look at everything.
func TestKernelViewFollows(t *testing.T) {
	f := newViewFixture(t)
	f.follows("the start", func() error { return nil })
	f.follows("a device", func() error { f.AddVeth("eth0", "10.0.0.1/24"); return nil })
	eth := f.Link("eth0")
	byDefault := netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")
	f.follows("its other end leaving", func() error { return netlink.LinkSetNsFd(f.Link("eth0-peer"), f.elsewhere.FD()) })
	f.follows("its other end coming back", func() (err error) {
		<-f.elsewhere.Run(func() { err = netlink.LinkSetNsFd(f.Link("eth0-peer"), f.FD()) })
		return err
	})
	f.follows("that being up again", func() error { return netlink.LinkSetUp(f.Link("eth0-peer")) })
	f.follows("a default route", func() error { return netlink.RouteAdd(byDefault) })
	f.follows("going down", func() error { return netlink.LinkSetDown(eth) })
	f.follows("coming up", func() error { return netlink.LinkSetUp(eth) })
	f.follows("another default route", func() error { return netlink.RouteReplace(byDefault) })
	f.follows("no default route", func() error { return netlink.RouteDel(byDefault) })
	vlan := &netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth0.7", ParentIndex: eth.Attrs().Index}, VlanId: 7}
	if err := netlink.LinkAdd(vlan); !errors.Is(err, unix.EOPNOTSUPP) { // some kernels have no VLANs
		f.follows("a VLAN", func() error { return err })
		f.follows("no VLAN", func() error { return netlink.LinkDel(vlan) })
	}
	f.follows("no address, and so no route", func() error {
		only, err := netlink.ParseAddr("10.0.0.1/24")
		must(t, err)
		return netlink.AddrDel(eth, only)
	})
	f.follows("an address with a peer", func() error {
		a, err := netlink.ParseAddr("10.1.0.1/32")
		must(t, err)
		a.Peer = &net.IPNet{IP: net.IPv4(10, 1, 0, 2), Mask: net.CIDRMask(24, 32)}
		return netlink.AddrAdd(eth, a)
	})
	f.follows("a bridge", func() error {
		f.Add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}, "10.8.0.1/24")
		return nil
	})
	f.follows("a port of it", func() error { return netlink.LinkSetMaster(eth, f.Link("cni0")) })
	f.follows("no port", func() error { return netlink.LinkSetNoMaster(eth) })
	f.follows("another name", func() error {
		must(t, netlink.LinkSetDown(eth))
		must(t, netlink.LinkSetName(eth, "eth1"))
		return netlink.LinkSetUp(eth)
	})
	f.follows("no device", func() error { return netlink.LinkDel(f.Link("eth1")) })
	if reads := f.lists(func(c Change) bool { return c.all }); reads != 1 {
		t.Errorf("everything was read %d times, want once, at the start", reads)
	}
}

// lists counts the changes after which a list was read that grows with the devices.
func (f *viewFixture) lists(is func(Change) bool) (count int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, c := range f.changes {
		if is(c) {
			count++
		}
	}
	return count
}

// When a pod comes or goes, as a CNI plugin makes it, the view reads its device alone. It reads no list that
// grows with the devices.
func TestPodIsReadAlone(t *testing.T) {
	f := newViewFixture(t)
	f.follows("the start", func() error { return nil })
	f.follows("an uplink", func() error {
		return netlink.RouteAdd(netnstest.Route(f.AddVeth("eth0", "10.0.0.1/24"), "0.0.0.0/0", "10.0.0.254"))
	})
	bridge := f.Add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}, "10.8.0.1/24")
	add := func(name string) error {
		pod := f.AddVeth(name)
		must(t, netlink.LinkSetNsFd(f.Link(name+"-peer"), f.elsewhere.FD()))
		f.AddAddr(pod, "10.244.0.1/32")
		to := &netlink.Route{LinkIndex: pod.Attrs().Index, Dst: netlink.NewIPNet(net.IPv4(10, 244, 0, byte(pod.Attrs().Index))), Scope: netlink.SCOPE_LINK}
		return netlink.RouteAdd(to)
	}
	f.follows("the first pod", func() error { return add("pod0") })
	f.follows("the first pod on a bridge", func() error { must(t, add("pod1")); return netlink.LinkSetMaster(f.Link("pod1"), bridge) })
	f.settle()
	f.mu.Lock()
	f.changes = nil
	f.mu.Unlock()

	f.follows("a pod", func() error { return add("pod2") })
	f.follows("a pod on a bridge", func() error { must(t, add("pod3")); return netlink.LinkSetMaster(f.Link("pod3"), bridge) })
	f.follows("a pod that goes", func() error { return netlink.LinkDel(f.Link("pod2")) })
	f.settle()
	if lists := f.lists(func(c Change) bool { return c.all || c.routes }); lists > 0 {
		t.Errorf("links, addresses or routes were listed %d times", lists)
	}
	others := []int{f.Link("eth0").Attrs().Index, f.Link("pod0").Attrs().Index, f.Link("pod1").Attrs().Index}
	if read := f.lists(func(c Change) bool {
		return slices.ContainsFunc(others, func(index int) bool { return c.devices[index] })
	}); read > 0 {
		t.Errorf("devices that have not changed were read %d times", read)
	}
	if read := f.lists(func(Change) bool { return true }); read == 0 {
		t.Error("nothing was read")
	}
}

// settle waits until nothing has been read for a while.
func (f *viewFixture) settle() {
	any := func(Change) bool { return true }
	for before := -1; before != f.lists(any); time.Sleep(5 * settle) {
		before = f.lists(any)
	}
}

// A list of one device's addresses agrees with the list of all.
func TestListAddrs(t *testing.T) {
	n := netnstest.New(t)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/default/disable_ipv6", []byte("0"), 0))
	one, two := n.AddVeth("one", "10.0.0.1/24", "10.0.0.2/32", "fd00::1/64"), n.AddVeth("two", "10.1.0.1/16")
	all, err := listAddrs(0)
	must(t, err)
	for _, link := range []netlink.Link{one, two} {
		index := link.Attrs().Index
		own, err := listAddrs(index)
		must(t, err)
		if len(own) != 1 || !slices.Equal(own[index], all[index]) {
			t.Errorf("%s: %v, and among all %v", link.Attrs().Name, own, all[index])
		}
	}
	var global []string
	for _, a := range all[one.Attrs().Index] {
		if a.scope == 0 {
			global = append(global, fmt.Sprint(a.ip, " ", a.subnet))
		}
	}
	if want := []string{"10.0.0.1 true", "10.0.0.2 false", "fd00::1 true"}; !slices.Equal(global, want) {
		t.Errorf("got %q, want %q", global, want)
	}
	if none, err := listAddrs(4711); err != nil || len(none) > 0 {
		t.Errorf("of no device: %v, error %v", none, err)
	}
}

// TestExpectPods: a device whose other end is elsewhere looks like a pod's, unless it has a network's address.
func TestExpectPods(t *testing.T) {
	here := netnstest.New(t)
	other := make(chan netnstest.Namespace)
	go func() { other <- netnstest.New(t) }()
	elsewhere := <-other
	expect := func(what string, rules DeviceRules, want bool) {
		t.Helper()
		got, err := rules.ExpectPods()
		must(t, err)
		if got != want {
			t.Errorf("%s: got %t, want %t", what, got, want)
		}
	}
	pair := func(name string, addrs ...string) {
		t.Helper()
		here.Add(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "-peer", PeerNamespace: netlink.NsFd(elsewhere.FD())}, addrs...)
	}
	expect("no device", DeviceRules{}, false)
	pair("uplink", "10.0.0.1/24")
	expect("an uplink", DeviceRules{}, false)
	pair("pod")
	expect("a pod", DeviceRules{}, true)
	expect("a pod that is to be ignored", DeviceRules{Ignore: []string{"pod"}}, false)
}

// TestAlike: two states of a link differ by all that roles depend on, and by nothing that changes all the
// time.
func TestAlike(t *testing.T) {
	link := func(edits ...func(*netlink.LinkAttrs)) netlink.Link {
		attrs := netlink.LinkAttrs{Name: "a", Index: 5, NetNsID: -1, EncapType: "ether", Flags: net.FlagUp,
			Statistics: &netlink.LinkStatistics{RxPackets: 1}}
		for _, edit := range edits {
			edit(&attrs)
		}
		return &netlink.Veth{LinkAttrs: attrs}
	}
	for what, edit := range map[string]func(*netlink.LinkAttrs){
		"name":       func(a *netlink.LinkAttrs) { a.Name = "b" },
		"master":     func(a *netlink.LinkAttrs) { a.MasterIndex = 7 },
		"other end":  func(a *netlink.LinkAttrs) { a.ParentIndex = 8 },
		"namespace":  func(a *netlink.LinkAttrs) { a.NetNsID = 0 },
		"link layer": func(a *netlink.LinkAttrs) { a.EncapType = "none" },
		"down":       func(a *netlink.LinkAttrs) { a.Flags = 0 },
		"unused":     func(a *netlink.LinkAttrs) { a.Statistics = nil },
		"XDP":        func(a *netlink.LinkAttrs) { a.Xdp = &netlink.LinkXdp{Attached: true} },
	} {
		if alike(link(), link(edit)) {
			t.Errorf("%s: no difference", what)
		}
	}
	busy := link(func(a *netlink.LinkAttrs) { a.Statistics = &netlink.LinkStatistics{RxPackets: 9}; a.TxQLen = 3 })
	if !alike(link(), busy) {
		t.Error("a link differs from itself, after some packets")
	}
	if alike(link(), &netlink.Dummy{LinkAttrs: *link().Attrs()}) {
		t.Error("kind: no difference")
	}
}

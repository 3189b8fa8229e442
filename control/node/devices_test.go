// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
)

// devicesFixture is the datapath in a namespace of its own, with Devices.
type devicesFixture struct {
	netnstest.Namespace
	t   *testing.T
	dp  *loader.Datapath
	dir string // its pins

	elsewhere *netnstest.Namespace // where the other ends of its devices are
	*Devices
}

func newDevicesFixture(t *testing.T, rules DeviceRules, xdp XDPMode) *devicesFixture {
	t.Helper()
	f := &devicesFixture{Namespace: netnstest.New(t), t: t}
	f.load()
	f.restart(rules, xdp)
	return f
}

func (f *devicesFixture) load(edits ...func(*loader.Options)) {
	f.t.Helper()
	f.dp, f.dir = loadertest.Load(f.t, edits...)
}

// restart replaces Devices by those of a new agent, which knows nothing of the last one.
func (f *devicesFixture) restart(rules DeviceRules, xdp XDPMode) {
	f.Devices = NewDevices(f.dp, DeviceOptions{Rules: rules, XDP: xdp}, loadertest.Quiet())
}

func (f *devicesFixture) sync() {
	f.t.Helper()
	must(f.t, f.Sync())
}

// expect compares the devices' states, as in "eth0 external xdp", and the attachments of each.
func (f *devicesFixture) expect(want ...string) {
	f.t.Helper()
	links, err := f.dp.Links()
	must(f.t, err)
	hooks := map[string][]string{}
	for _, l := range links {
		hooks[l.Device] = append(hooks[l.Device], l.Hook)
	}
	var got []string
	for _, s := range f.Status() {
		slices.Sort(hooks[s.Name])
		got = append(got, fmt.Sprintf("%s %s: %s", s.Name, s.Role, strings.Join(hooks[s.Name], " ")))
		delete(hooks, s.Name)
	}
	if diff := cmp.Diff(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(got))); diff != "" {
		f.t.Errorf("devices (-want +got):\n%s", diff)
	}
	if len(hooks) > 0 {
		f.t.Errorf("programs are left on %v", hooks)
	}
}

// expectTable compares what the maps hold of a device.
func (f *devicesFixture) expectTable(name string, want maps.Device) {
	f.t.Helper()
	index := 0 // the node itself
	if name != "" {
		index = f.Link(name).Attrs().Index
	}
	all, err := maps.NewDevices(f.dp).All()
	must(f.t, err)
	if got, ok := all[index]; !ok || got != want {
		f.t.Errorf("%q in the map: %+v, want %+v", name, got, want)
	}
}

// expectNodeAddrs compares the node's addresses; those that NodePorts answer on have a "*".
func (f *devicesFixture) expectNodeAddrs(want string) {
	f.t.Helper()
	all, err := maps.NewNodeAddrs(f.dp).All()
	must(f.t, err)
	var got []string
	for a, what := range all {
		name := a.String()
		if what.NodePorts {
			name += "*"
		}
		if !what.Local {
			name += " (not local)"
		}
		got = append(got, name)
	}
	slices.Sort(got)
	if got := strings.Join(got, " "); got != want {
		f.t.Errorf("node addresses %s, want %s", got, want)
	}
}

const tcHooks = "tc-egress tc-ingress"

func TestDevicesSync(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"ignored*"}}, XDPAuto)
	eth := f.AddVeth("eth0", "10.0.0.1/24", "10.0.0.2/24")
	f.moveOut("eth0-peer")
	must(t, netlink.RouteAdd(netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")))
	f.addPodVeth("pod0")
	f.AddVeth("ignored0")
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}))
	f.sync()
	f.expect() // the node's addresses are not known yet

	f.SetNodeIPs(addrs("10.0.0.2"))
	f.sync()
	want := []string{"eth0 external: " + tcHooks, "pod0 pod: " + tcHooks, "tun0 overlay: " + tcHooks}
	f.expect(want...)
	f.expectNodeAddrs("10.0.0.1 10.0.0.2*")
	node := netip.MustParseAddr("10.0.0.2")
	f.expectTable("", maps.Device{Addr4: node})
	f.expectTable("eth0", maps.Device{TCTransmits: true, EgressHook: true, Ethernet: true, Uplink: true, Addr4: node})
	f.expectTable("tun0", maps.Device{TCTransmits: true, EgressHook: true})
	f.sync()
	f.expect(want...)

	// Links and addresses come and go.
	f.addPodVeth("pod1")
	must(t, netlink.LinkDel(f.Link("pod0")))
	f.SetNodeIPs(addrs("10.0.0.1"))
	f.sync()
	f.expect("eth0 external: "+tcHooks, "pod1 pod: "+tcHooks, "tun0 overlay: "+tcHooks)
	f.expectTable("eth0", maps.Device{TCTransmits: true, EgressHook: true, Ethernet: true, Uplink: true, Addr4: netip.MustParseAddr("10.0.0.1")})
	f.expectNodeAddrs("10.0.0.1* 10.0.0.2")
	f.SetNodeIPs(nil)
	f.sync()
	f.expectNodeAddrs("10.0.0.1* 10.0.0.2*")
}

// moveOut moves a device to another namespace, where the peers of this one's devices would be.
func (f *devicesFixture) moveOut(name string) {
	f.t.Helper()
	if f.elsewhere == nil {
		other := make(chan netnstest.Namespace)
		go func() {
			defer close(other)
			other <- netnstest.New(f.t)
		}()
		made := <-other
		f.elsewhere = &made
	}
	must(f.t, netlink.LinkSetNsFd(f.Link(name), f.elsewhere.FD()))
}

// addPodVeth makes the host's side of a pod's device.
func (f *devicesFixture) addPodVeth(name string) netlink.Link {
	f.t.Helper()
	made := f.AddVeth(name)
	f.moveOut(name + "-peer")
	return made
}

// A device that should no longer have XDP must not keep it: neither after its role has changed, nor from an agent
// with another --xdp.
func TestDevicesXDPGoes(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPAlways)
	eth := f.addXDPVeth("eth0", "10.0.0.1/24")
	byDefault := netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")
	must(t, netlink.RouteAdd(byDefault))
	f.SetNodeIPs(nil)
	const withXDP = "eth0 external: " + tcHooks + " xdp"
	f.sync()
	f.expect(withXDP)
	f.expectTable("eth0", maps.Device{TCTransmits: true, XDPTransmits: true, EgressHook: true, Ethernet: true, Uplink: true, Addr4: netip.MustParseAddr("10.0.0.1")})

	f.moveOut("eth0-peer")
	only, err := netlink.ParseAddr("10.0.0.1/24")
	must(t, err)
	must(t, netlink.AddrDel(eth, only)) // and with it the route
	f.sync()
	f.expect("eth0 pod: " + tcHooks)
	f.AddAddr(eth, "10.0.0.1/24")
	f.sync()
	f.expect(withXDP)

	f.restart(DeviceRules{Ignore: []string{"*-peer"}}, XDPOff)
	f.SetNodeIPs(nil)
	f.sync()
	f.expect("eth0 external: " + tcHooks)

	f.restart(DeviceRules{Ignore: []string{"*"}}, XDPOff)
	f.SetNodeIPs(nil)
	f.sync()
	f.expect()
}

// TestDevicesFollow, of contract 45: a device's role follows changes of links, routes and addresses, as the
// kernel reports them.
func TestDevicesFollow(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPOff)
	f.SetNodeIPs(nil)
	one, two := f.addPodVeth("veth1"), f.addPodVeth("veth2")
	up := func(link netlink.Link) { must(t, netlink.LinkSetUp(link)) }
	pod := func(name string) string { return name + " pod: " + tcHooks }
	external := func(name string) string { return name + " external: " + tcHooks }
	now := func(want ...string) {
		t.Helper()
		f.sync()
		f.expect(want...)
	}
	now(pod("veth1"), pod("veth2"))

	// As a CNI plugin does it.
	f.AddAddr(one, "10.244.0.1/32")
	f.AddAddr(two, "10.244.0.1/32")
	toPod := &netlink.Route{LinkIndex: one.Attrs().Index, Dst: netlink.NewIPNet(net.IPv4(10, 244, 0, 2)), Scope: netlink.SCOPE_LINK}
	must(t, netlink.RouteAdd(toPod))
	now(pod("veth1"), pod("veth2"))

	onlink := func(link netlink.Link, via string) *netlink.NexthopInfo {
		return &netlink.NexthopInfo{LinkIndex: link.Attrs().Index, Gw: net.ParseIP(via), Flags: int(netlink.FLAG_ONLINK)}
	}
	both := &netlink.Route{MultiPath: []*netlink.NexthopInfo{onlink(one, "192.0.2.1"), onlink(two, "192.0.2.2")}}
	both.Dst = &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}
	must(t, netlink.RouteAdd(both))
	now(external("veth1"), external("veth2"))
	must(t, netlink.RouteDel(both))
	now(pod("veth1"), pod("veth2"))

	elsewhere := netnstest.Route(two, "0.0.0.0/0", "192.0.2.2")
	elsewhere.Table, elsewhere.Flags, elsewhere.Src = 100, int(netlink.FLAG_ONLINK), net.IPv4(10, 244, 0, 1)
	must(t, netlink.RouteAdd(elsewhere))
	now(pod("veth1"), external("veth2"))
	f.expectTable("veth2", maps.Device{TCTransmits: true, EgressHook: true, Ethernet: true, Uplink: true, Addr4: netip.MustParseAddr("10.244.0.1")})
	must(t, netlink.RouteDel(elsewhere))

	f.AddAddr(two, "10.9.0.1/24")
	now(pod("veth1"), external("veth2"))

	// Pods' devices on a bridge, and then also something else.
	bridge := f.Add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}, "10.8.0.1/24")
	three := f.addPodVeth("veth3")
	now(pod("veth1"), external("veth2"), pod("veth3"))
	must(t, netlink.LinkSetMaster(three, bridge))
	now(pod("veth1"), external("veth2"), pod("veth3"), "cni0 pod-bridge: ")
	f.expectTable("cni0", maps.Device{EgressHook: true, Pod: true, Ethernet: true, Addr4: netip.MustParseAddr("10.8.0.1")})
	f.expectRepairs(nil)
	tap := &netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "vnet0"}, Mode: netlink.TUNTAP_MODE_TAP}
	must(t, netlink.LinkAdd(tap))
	vnet := f.Link("vnet0")
	must(t, netlink.LinkSetMaster(vnet, bridge))
	up(vnet)
	now(pod("veth1"), external("veth2"), pod("veth3"), external("cni0"))
	must(t, netlink.LinkDel(vnet))
	now(pod("veth1"), external("veth2"), pod("veth3"), "cni0 pod-bridge: ")
}

// A device that an agent with another pin directory serves stays untouched, with an error that names both.
func TestServedByOther(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPOff)
	eth := f.AddVeth("eth0", "10.0.0.1/24")
	other, dir := loadertest.Load(t)
	must(t, other.AttachTC(eth.Attrs().Index, loader.External))
	f.SetNodeIPs(nil)
	if err := f.Sync(); !errors.Is(err, loader.ErrServed) || !strings.Contains(err.Error(), "device eth0: ") || !strings.Contains(err.Error(), "--pin-dir "+dir) {
		t.Errorf("got %v, want %v with the device and the pin directory %s", err, loader.ErrServed, dir)
	}
	if devices := f.Status(); len(devices) > 0 {
		t.Errorf("it serves %+v", devices)
	}
}

// refusePin keeps a program from being pinned.
func (f *devicesFixture) refusePin(program string) (undo func()) {
	f.t.Helper()
	inTheWay := fmt.Sprintf("%s/programs/%s-new", f.dir, program)
	must(f.t, os.MkdirAll(inTheWay+"/a", 0o700))
	return func() {
		must(f.t, os.Remove(inTheWay+"/a"))
		must(f.t, os.Remove(inTheWay))
	}
}

// TestDevicesGetProgramsLater: a device whose programs are loaded for it alone gets them while the agent runs. If
// the kernel refuses them, the error names them, and other devices stay as they are.
func TestDevicesGetProgramsLater(t *testing.T) {
	rules := DeviceRules{Ignore: []string{"*-peer"}}
	f := newDevicesFixture(t, rules, XDPAlways)
	f.AddVeth("eth0", "10.0.0.1/24") // its peer leaves checksums to the device
	f.SetNodeIPs(addrs("10.0.0.1"))
	f.sync()
	f.expect("eth0 external: " + tcHooks)

	undoL3, undoXDP := f.refusePin("waggle_ingress_l3"), f.refusePin("waggle_xdp")
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}))
	f.addXDPVeth("eth1", "10.1.0.1/24")
	if err := f.Sync(); err == nil || !strings.Contains(err.Error(), "tun0") || !strings.Contains(err.Error(), "waggle_ingress_l3") {
		t.Errorf("got %v, want an error that names the device and the program", err)
	}
	f.expect("eth0 external: "+tcHooks, "eth1 external: "+tcHooks)
	if why := f.Status()[1].XDP; !strings.Contains(why, "waggle_xdp") {
		t.Errorf("eth1 has no XDP because %q", why)
	}

	undoL3()
	undoXDP()
	f.sync()
	f.expect("eth0 external: "+tcHooks, "eth1 external: "+tcHooks, "tun0 overlay: "+tcHooks)
	f.restart(rules, XDPAlways)
	f.SetNodeIPs(addrs("10.0.0.1"))
	f.sync()
	f.expect("eth0 external: "+tcHooks, "eth1 external: "+tcHooks+" xdp", "tun0 overlay: "+tcHooks)
}

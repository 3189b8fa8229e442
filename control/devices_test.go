// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// devicesFixture is the datapath in a namespace of its own, with the care of its devices.
type devicesFixture struct {
	netns
	dp  *loader.Datapath
	dir string // its pins
	*Devices
}

func newDevicesFixture(t *testing.T, rules DeviceRules, xdp XDPMode) *devicesFixture {
	t.Helper()
	f := &devicesFixture{netns: newNetns(t)}
	f.load()
	f.restart(rules, xdp)
	return f
}

func (f *devicesFixture) load(edits ...func(*loader.Options)) {
	f.t.Helper()
	must(f.t, topo.MountBPFFS())
	dir := fmt.Sprintf("/sys/fs/bpf/waggle-control-test-%d", os.Getpid())
	sizes := map[string]uint32{}
	for _, name := range []string{"flows4", "flows6", "slots", "backends", "services4", "services6", "service_names", "sock_flows"} {
		sizes[name] = 1024
	}
	opts := loader.Options{PinDir: dir, Log: quiet(), MapSizes: sizes}
	for _, edit := range edits {
		edit(&opts)
	}
	dp, err := loader.Load(opts)
	must(f.t, err)
	f.dp, f.dir = dp, dir
	f.t.Cleanup(func() {
		must(f.t, dp.Close())
		_, err := loader.Cleanup(dir, quiet())
		must(f.t, err)
	})
}

// restart gives the devices to a new agent, which knows nothing of what the last one did.
func (f *devicesFixture) restart(rules DeviceRules, xdp XDPMode) {
	f.Devices = NewDevices(f.dp, rules, xdp, NodePortAddresses{}, quiet())
}

func (f *devicesFixture) sync() {
	f.t.Helper()
	must(f.t, f.Sync())
}

// expect compares the devices' states, as in "eth0 external xdp", and what is attached to each.
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

// expectTable compares the map that describes a device to the programs.
func (f *devicesFixture) expectTable(name string, want maps.Device) {
	f.t.Helper()
	index := 0 // the node itself
	if name != "" {
		index = f.link(name).Attrs().Index
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
	eth := f.addVeth("eth0", "10.0.0.1/24", "10.0.0.2/24")
	must(t, netlink.LinkSetNsFd(f.link("eth0-peer"), f.outside()))
	must(t, netlink.RouteAdd(route(eth, "0.0.0.0/0", "10.0.0.254")))
	f.addVeth("pod0")
	f.addVeth("ignored0")
	must(t, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: netlink.LinkAttrs{Name: "tun0"}, Mode: netlink.TUNTAP_MODE_TUN}))
	f.sync()
	f.expect() // the node's addresses are not known yet

	f.SetNodeIPs(addrs("10.0.0.2"))
	f.sync()
	want := []string{"eth0 external: " + tcHooks, "pod0 pod: " + tcHooks, "pod0-peer pod: " + tcHooks, "tun0 overlay: " + tcHooks}
	f.expect(want...)
	f.expectNodeAddrs("10.0.0.1 10.0.0.2*")
	node := netip.MustParseAddr("10.0.0.2")
	f.expectTable("", maps.Device{Addr4: node})
	f.expectTable("eth0", maps.Device{TCTransmits: true, EgressHook: true, Ethernet: true, Addr4: node})
	f.expectTable("tun0", maps.Device{TCTransmits: true, EgressHook: true})
	f.sync()
	f.expect(want...)

	// Links and addresses come and go.
	f.addVeth("pod1")
	must(t, netlink.LinkDel(f.link("pod0")))
	f.SetNodeIPs(addrs("10.0.0.1"))
	f.sync()
	f.expect("eth0 external: "+tcHooks, "pod1 pod: "+tcHooks, "pod1-peer pod: "+tcHooks, "tun0 overlay: "+tcHooks)
	f.expectTable("eth0", maps.Device{TCTransmits: true, EgressHook: true, Ethernet: true, Addr4: netip.MustParseAddr("10.0.0.1")})
	f.expectNodeAddrs("10.0.0.1* 10.0.0.2")
	f.SetNodeIPs(nil)
	f.sync()
	f.expectNodeAddrs("10.0.0.1* 10.0.0.2*")
}

// outside is another namespace, where the peers of this one's devices would be.
func (f *devicesFixture) outside() int {
	f.t.Helper()
	other := make(chan int)
	go func() {
		defer close(other)
		other <- newNetns(f.t).fd
	}()
	return <-other
}

// A device that should have XDP no longer must not keep it: not after its role has changed, nor
// from an agent with another --xdp.
func TestDevicesXDPGoes(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPAlways)
	eth := f.addVeth("eth0", "10.0.0.1/24")
	byDefault := route(eth, "0.0.0.0/0", "10.0.0.254")
	must(t, netlink.RouteAdd(byDefault))
	f.SetNodeIPs(nil)
	const withXDP = "eth0 external: " + tcHooks + " xdp"
	f.sync()
	f.expect(withXDP)
	f.expectTable("eth0", maps.Device{TCTransmits: true, XDPTransmits: true, EgressHook: true, Ethernet: true, Addr4: netip.MustParseAddr("10.0.0.1")})

	must(t, netlink.RouteDel(byDefault))
	f.sync()
	f.expect("eth0 pod: " + tcHooks)
	must(t, netlink.RouteAdd(byDefault))
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

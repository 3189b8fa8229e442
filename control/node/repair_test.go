// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
)

// listen captures the log of the devices.
func (f *devicesFixture) listen() *logtest.Hook {
	logger, hook := logtest.NewNullLogger()
	f.log = logrus.NewEntry(logger)
	return hook
}

// expectRepairs runs one pass, as the agent does, and compares what it adds to the counts.
func (f *devicesFixture) expectRepairs(want map[string]int) {
	f.t.Helper()
	before := f.Repaired()
	must(f.t, f.Repair())
	f.sync()
	got := map[string]int{}
	for table, n := range f.Repaired() {
		if n > before[table] {
			got[table] = n - before[table]
		}
	}
	if diff := cmp.Diff(want, got, cmpopts.EquateEmpty()); diff != "" {
		f.t.Errorf("repairs (-want +got):\n%s", diff)
	}
}

func (f *devicesFixture) expectTransmitting(names ...string) {
	f.t.Helper()
	got, err := maps.NewDevices(f.dp).Transmitting()
	must(f.t, err)
	want := map[int]bool{}
	for _, name := range names {
		want[f.Link(name).Attrs().Index] = true
	}
	if diff := cmp.Diff(want, got); diff != "" {
		f.t.Errorf("xdp_devices (-want +got):\n%s", diff)
	}
}

// Row 7: the maps that describe the node are compared with what the agent has written.
func TestRepairDevices(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPAlways)
	eth := f.addXDPVeth("eth0", "10.0.0.1/24")
	must(t, netlink.RouteAdd(netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")))
	pod := f.addPodVeth("pod0")
	left := maps.Device{TCTransmits: true, XDPTransmits: true}
	must(t, maps.NewDevices(f.dp).Put(pod.Attrs().Index, left)) // an earlier agent's
	f.expectRepairs(nil)
	f.expectTable("pod0", left)
	f.SetNodeIPs(nil)
	f.sync()
	f.expectRepairs(nil)

	node := netip.MustParseAddr("10.0.0.1")
	want := maps.Device{TCTransmits: true, XDPTransmits: true, EgressHook: true, Ethernet: true, Uplink: true, Addr4: node}
	agree := func() {
		t.Helper()
		f.expectTable("", maps.Device{Addr4: node})
		f.expectTable("eth0", want)
		f.expectTable("pod0", maps.Device{EgressHook: true, Pod: true, Ethernet: true})
		f.expectTransmitting("eth0")
		f.expectNodeAddrs("10.0.0.1*")
		f.expectRepairs(nil)
	}
	agree()
	table, peer := maps.NewDevices(f.dp), f.Link("eth0-peer").Attrs().Index
	must(t, table.Delete(eth.Attrs().Index))
	must(t, table.Delete(0))
	must(t, table.Put(pod.Attrs().Index, left))
	f.expectRepairs(map[string]int{"devices": 3, "xdp_devices": 2})
	agree()
	must(t, f.dp.Map("xdp_devices").Delete(uint32(eth.Attrs().Index)))
	must(t, f.dp.Map("xdp_devices").Put(uint32(pod.Attrs().Index), uint32(pod.Attrs().Index)))
	must(t, f.dp.Map("xdp_devices").Put(uint32(peer), uint32(peer)))
	must(t, f.dp.Map("devices").Put(uint32(4711), make([]byte, f.dp.Map("devices").ValueSize())))
	f.expectRepairs(map[string]int{"devices": 1, "xdp_devices": 3})
	agree()
	must(t, maps.NewNodeAddrs(f.dp).Set(map[netip.Addr]maps.NodeAddr{
		netip.MustParseAddr("10.0.0.9"): {Local: true}, netip.MustParseAddr("fd00::9"): {NodePorts: true},
	}))
	f.expectRepairs(map[string]int{"node_addrs4": 2, "node_addrs6": 1})
	agree()
	must(t, maps.NewNodeAddrs(f.dp).Set(map[netip.Addr]maps.NodeAddr{node: {Local: true}}))
	f.expectRepairs(map[string]int{"node_addrs4": 1})
	agree()

	// A device that goes is no drift, though the kernel removes it from one of the maps.
	must(t, netlink.LinkDel(eth))
	must(t, f.Repair())
	f.sync()
	f.expect("pod0 pod: " + tcHooks)
	f.expectTransmitting()
}

// TestRepairReadsRoutes: the end of a route that the kernel has not reported is noticed with the next look.
func TestRepairReadsRoutes(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPOff)
	f.SetNodeIPs(nil)
	veth := f.addPodVeth("veth1")
	f.AddAddr(veth, "10.244.0.1/32")
	route := netnstest.Route(veth, "0.0.0.0/0", "192.0.2.2")
	route.Flags = int(netlink.FLAG_ONLINK)
	must(t, netlink.RouteAdd(route))
	f.sync()
	f.expect("veth1 external: " + tcHooks)
	must(t, netlink.RouteDel(route))
	again := func() {
		t.Helper()
		_, err := f.SyncChange(Change{})
		must(t, err)
	}
	again()
	f.expect("veth1 external: " + tcHooks) // else this test shows nothing
	must(t, f.Repair())
	again()
	f.expect("veth1 pod: " + tcHooks)
}

func haveTCX() bool {
	_, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress}) // of the loopback
	return err == nil
}

// A program that was detached from a device is attached again, and this is reported.
func TestRepairDetached(t *testing.T) {
	for _, c := range []struct {
		name   string
		clsact bool
		detach func(*devicesFixture)
		hooks  string
	}{
		{"tcx ingress", false, func(f *devicesFixture) { loadertest.DetachLinks(t, f.dir, "tcx-ingress-eth0-*") }, "[tc-ingress]"},
		{"tcx egress and xdp", false, func(f *devicesFixture) {
			loadertest.DetachLinks(t, f.dir, "tcx-egress-eth0-*")
			loadertest.DetachLinks(t, f.dir, "xdp-eth0-*")
		}, "[tc-egress xdp]"},
		{"pins", false, func(f *devicesFixture) {
			pins, err := filepath.Glob(filepath.Join(f.dir, "links", "*-eth0-*"))
			must(t, err)
			for _, pin := range pins {
				must(t, os.Remove(pin))
			}
			await.Until(t, func() (string, bool) { // the kernel detaches some time later
				eth := f.Link("eth0")
				left := eth.Attrs().Xdp != nil && eth.Attrs().Xdp.Attached
				for _, hook := range []ebpf.AttachType{ebpf.AttachTCXIngress, ebpf.AttachTCXEgress} {
					result, err := link.QueryPrograms(link.QueryOptions{Target: eth.Attrs().Index, Attach: hook})
					must(t, err)
					left = left || len(result.Programs) > 0
				}
				return "programs stay without their pins", !left
			})
		}, "[tc-ingress tc-egress xdp]"},
		{"xdp", true, func(f *devicesFixture) { loadertest.DetachLinks(t, f.dir, "xdp-eth0-*") }, "[xdp]"},
		{"filter", true, func(f *devicesFixture) {
			filters, err := netlink.FilterList(f.Link("eth0"), netlink.HANDLE_MIN_INGRESS)
			must(t, err)
			must(t, netlink.FilterDel(filters[0]))
		}, "[tc-ingress]"},
		{"clsact", true, func(f *devicesFixture) {
			qdiscs, err := netlink.QdiscList(f.Link("eth0"))
			must(t, err)
			for _, q := range qdiscs {
				if q.Type() == "clsact" {
					must(t, netlink.QdiscDel(q))
				}
			}
		}, "[tc-ingress tc-egress]"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := &devicesFixture{Namespace: netnstest.New(t), t: t}
			if !c.clsact && !haveTCX() {
				t.Skip("this kernel has no TCX")
			}
			f.load(func(opts *loader.Options) { opts.ForceClsact = c.clsact })
			f.restart(DeviceRules{Ignore: []string{"*-peer"}}, XDPAlways)
			eth := f.addXDPVeth("eth0", "10.0.0.1/24")
			must(t, netlink.RouteAdd(netnstest.Route(eth, "0.0.0.0/0", "10.0.0.254")))
			f.addPodVeth("pod0")
			f.SetNodeIPs(nil)
			f.sync()
			want := []string{"eth0 external: " + tcHooks + " xdp", "pod0 pod: " + tcHooks}
			f.expect(want...)
			logs := f.listen()
			f.expectRepairs(nil)
			if entries := logs.AllEntries(); len(entries) > 0 {
				t.Fatalf("all is attached, but: %s", entries[0].Message)
			}

			c.detach(f)
			f.expectRepairs(nil)
			f.expect(want...)
			f.expectTransmitting("eth0")
			var logged []string
			for _, e := range logs.AllEntries() {
				if e.Level == logrus.WarnLevel {
					logged = append(logged, fmt.Sprint(e.Data["device"], " ", e.Data["hooks"], " ", e.Message))
				}
			}
			if diff := cmp.Diff([]string{"eth0 " + c.hooks + " another program detached waggle's programs; attaching them again"}, logged); diff != "" {
				t.Errorf("warnings (-want +got):\n%s", diff)
			}
			f.expectRepairs(nil)
		})
	}
}

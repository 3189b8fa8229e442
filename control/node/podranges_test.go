// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/loader/loadertest"
	"github.com/waggle-lb/waggle/maps"
)

func prefixes(texts ...string) (all []netip.Prefix) {
	for _, text := range texts {
		all = append(all, netip.MustParsePrefix(text))
	}
	return all
}

func TestCover(t *testing.T) {
	for _, c := range []struct {
		name        string
		ranges      []netip.Prefix
		most        int
		wantToCover []netip.Prefix
	}{
		{"none", nil, 2, nil},
		{"few", prefixes("10.2.0.0/24", "10.1.0.0/24"), 2, prefixes("10.1.0.0/24", "10.2.0.0/24")},
		{"parts", prefixes("10.1.2.0/24", "10.1.0.0/16", "10.1.0.0/16"), 2, prefixes("10.1.0.0/16")},
		{"the nearest become one", prefixes("10.1.0.0/24", "10.1.3.0/24", "10.9.0.0/24"), 2, prefixes("10.1.0.0/22", "10.9.0.0/24")},
		{"of different length", prefixes("10.1.0.0/16", "10.2.3.0/24"), 1, prefixes("10.0.0.0/14")},
		{"nothing in common", prefixes("10.0.0.0/8", "192.168.0.0/16"), 1, prefixes("0.0.0.0/0")},
		{"each family", prefixes("fd00:1::/64", "10.1.0.0/24", "fd00::/64"), 1, prefixes("10.1.0.0/24", "fd00::/31")},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := cover(c.ranges, c.most)
			if diff := cmp.Diff(c.wantToCover, got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// TestOnLink: which range of pods a route stands for.
func TestOnLink(t *testing.T) {
	for _, c := range []struct{ dst, gateway, want string }{
		{"10.1.0.0/16", "", "10.1.0.0/16"},
		{"10.1.2.0/26", "", "10.1.2.0/24"},
		{"10.1.2.3/32", "", "10.1.2.0/24"},
		{"10.1.2.3/32", "10.1.2.3", "10.1.2.0/24"},
		{"fd00:1:2:3:4::5/128", "", "fd00:1:2:3::/64"},
		{"10.1.2.3/32", "10.1.2.1", ""},
		{"10.1.0.0/16", "192.0.2.1", ""},
		{"0.0.0.0/0", "", ""},
		{"fe80::/64", "", ""},
		{"ff00::/8", "", ""},
	} {
		_, dst, err := net.ParseCIDR(c.dst)
		must(t, err)
		got, ok := onLink(dst, &netlink.NexthopInfo{Gw: net.ParseIP(c.gateway)})
		if ok != (c.want != "") || ok && got.String() != c.want {
			t.Errorf("%s by %q: got %s, want %q", c.dst, c.gateway, got, c.want)
		}
	}
}

// TestAddRange: however many routes a device has, what is kept of them holds all, and stays small.
func TestAddRange(t *testing.T) {
	var ranges, all []netip.Prefix
	for i := range 1000 {
		p := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i * 37 >> 8), byte(i * 37), 0}), 24)
		all = append(all, p)
		ranges = addRange(ranges, p)
		if len(ranges) > 2*maxDeviceRanges {
			t.Fatalf("%d ranges", len(ranges))
		}
	}
	for _, p := range all {
		if !holds(ranges, p) {
			t.Errorf("%s is in none of %v", p, ranges)
		}
	}
}

func (f *devicesFixture) expectPodRanges(want ...string) {
	f.t.Helper()
	got, err := maps.NewPodRanges(f.dp).All()
	must(f.t, err)
	if diff := cmp.Diff(prefixes(want...), got, cmpopts.EquateComparable(netip.Prefix{})); diff != "" {
		f.t.Errorf("ranges of pods (-want +got):\n%s", diff)
	}
}

// TestPodRanges, of contract 62: they hold the routes by pods' devices, and no others. The routes of single pods count
// for their networks. What others have changed is repaired.
func TestPodRanges(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{External: []string{"eth0"}, Ignore: []string{"*-peer"}}, XDPOff)
	f.SetNodeIPs(nil)
	f.AddAddr(f.addPodVeth("eth0"), "192.0.2.2/24")
	pod := f.addPodVeth("pod0")
	f.sync()
	f.expectPodRanges()
	must(t, maps.NewPodRanges(f.dp).Set(prefixes("10.0.0.0/8")))
	f.expectRepairs(map[string]int{"pod_ranges": 1})
	f.expectPodRanges()

	for _, dst := range []string{"10.244.7.5/32", "10.244.7.6/32"} {
		must(t, netlink.RouteAdd(netnstest.Route(pod, dst, "")))
	}
	bridge := f.Add(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cni0"}}, "10.88.0.1/16")
	must(t, netlink.LinkSetMaster(f.addPodVeth("pod1"), bridge))
	f.sync()
	f.expectPodRanges("10.88.0.0/16", "10.244.7.0/24")

	must(t, maps.NewPodRanges(f.dp).Set(prefixes("10.244.7.0/24")))
	f.expectRepairs(map[string]int{"pod_ranges": 1})
	f.expectPodRanges("10.88.0.0/16", "10.244.7.0/24")
	<-f.elsewhere.Run(func() { must(t, netlink.LinkSetUp(f.elsewhere.Link("pod0-peer"))) })
	for _, args := range []string{"nexthop add id 1 dev pod0", "route add 10.77.1.5/32 nhid 1"} {
		out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v: %s", args, err, out)
		}
	}
	f.sync()
	f.expectPodRanges("10.77.1.0/24", "10.88.0.0/16", "10.244.7.0/24")
	must(t, netlink.LinkDel(pod))
	f.sync()
	f.expectPodRanges("10.88.0.0/16")
}

// TestNewPodRoutes: a route to a pod outside of the known ranges is followed at once, and one inside makes no work.
func TestNewPodRoutes(t *testing.T) {
	f := newDevicesFixture(t, DeviceRules{Ignore: []string{"*-peer"}}, XDPOff)
	f.SetNodeIPs(nil)
	pod := f.addPodVeth("pod0")
	f.sync()
	changes := make(chan Change, 100)
	w := &Watch{
		Log: loadertest.Quiet(), Routed: func() {}, Moved: func(int, netip.Addr, net.HardwareAddr) {},
		Routes: f.IsRouted, NewPods: f.LeadsToNewPods,
		Changed: func(c Change) {
			if _, err := f.SyncChange(c); err != nil {
				t.Error(err)
			}
			changes <- c
		},
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := f.Run(func() { w.Run(ctx) })
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	<-changes // everything, at the start
	add := func(dst string) { must(t, netlink.RouteAdd(netnstest.Route(pod, dst, ""))) }
	add("10.244.7.5/32")
	deadline := time.After(30 * time.Second)
	for {
		got, err := maps.NewPodRanges(f.dp).All()
		must(t, err)
		if slices.Equal(got, prefixes("10.244.7.0/24")) {
			break
		}
		select {
		case <-changes:
		case <-deadline:
			t.Fatalf("ranges of pods are %v", got)
		}
	}
	for len(changes) > 0 {
		<-changes
	}
	add("10.244.7.6/32")
	time.Sleep(10 * settle)
	for len(changes) > 0 {
		if c := <-changes; c.routes {
			t.Errorf("all routes were read again: %+v", c)
		}
	}
}

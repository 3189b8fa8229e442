// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

func TestServices(t *testing.T) {
	p := mapstest.New(t, nil)
	services := maps.NewServices(p)
	want := map[maps.Frontend]maps.Service{
		{Addr: addr("10.96.0.1"), Port: 443, Proto: unix.IPPROTO_TCP}:  {ID: 1, Kind: maps.ClusterIP, External: maps.Block{First: 8, Count: 3}, Internal: maps.Block{First: 16, Count: 2}},
		{Addr: addr("10.96.0.1"), Port: 443, Proto: unix.IPPROTO_UDP}:  {ID: 2, Kind: maps.ClusterIP, InternalDrop: true},
		{Addr: addr("0.0.0.0"), Port: 30001, Proto: unix.IPPROTO_TCP}:  {ID: 1, Kind: maps.NodePort, ExternalDrop: true},
		{Addr: addr("::"), Port: 30001, Proto: unix.IPPROTO_TCP}:       {ID: 3, Kind: maps.NodePort},
		{Addr: addr("fd00::1"), Port: 53, Proto: unix.IPPROTO_SCTP}:    {ID: 3, Kind: maps.LoadBalancer},
		{Addr: addr("2001:db8::1"), Port: 53, Proto: unix.IPPROTO_UDP}: {ID: 4, Kind: maps.ExternalIP},
	}
	for f, svc := range want {
		must(t, services.Put(f, svc))
	}
	got, err := services.All()
	must(t, err)
	expect(t, "services", got, want)
	expectKey(t, p.Map("services4"), []byte{10, 96, 0, 1, 1, 187, unix.IPPROTO_TCP, 0})
	expectKey(t, p.Map("services6"), append(addr("fd00::1").AsSlice(), 0, 53, unix.IPPROTO_SCTP, 0))
	for f := range want {
		must(t, services.Delete(f))
		must(t, services.Delete(f)) // no error, though it isn't there
	}
	got, err = services.All()
	must(t, err)
	expect(t, "services", got, map[maps.Frontend]maps.Service{})
}

// expectKey looks a key up by the bytes that a program finds in a packet.
func expectKey(t *testing.T, m *ebpf.Map, key []byte) {
	t.Helper()
	if value, err := m.LookupBytes(key); err != nil || value == nil {
		t.Errorf("%s has no key % x: %v", m, key, err)
	}
}

func TestServicesFull(t *testing.T) {
	services := maps.NewServices(mapstest.New(t, map[string]uint32{"services4": 1, "services6": 1}))
	for host, table := range map[string]string{"10.0.0.": "services4", "fd00::": "services6"} {
		first := maps.Frontend{Addr: addr(host + "1"), Port: 80, Proto: unix.IPPROTO_TCP}
		second := maps.Frontend{Addr: addr(host + "2"), Port: 80, Proto: unix.IPPROTO_TCP}
		must(t, services.Put(first, maps.Service{ID: 1}))
		expectError(t, services.Put(second, maps.Service{ID: 2}),
			fmt.Sprintf("frontend %s: the map %s is full (1 elements)", second, table))
		must(t, services.Put(first, maps.Service{ID: 3})) // an existing element can still be changed
	}
}

func TestNames(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"service_names": 3})
	names := maps.NewNames(p)
	long := strings.Repeat("x", 63)
	want := map[uint32]maps.Name{
		1: {Namespace: "default", Name: "web", Port: "http", Proto: unix.IPPROTO_TCP, Family: maps.IPv4},
		2: {Namespace: "default", Name: "web", Proto: unix.IPPROTO_UDP, Family: maps.IPv6},
		3: {Namespace: long, Name: long, Port: long, Proto: unix.IPPROTO_SCTP, Family: maps.IPv4},
	}
	wantTypes := map[uint32]maps.Type{1: maps.PlainType, 2: maps.LoadBalancerType, 3: maps.PendingLoadBalancer}
	for id, name := range want {
		must(t, names.Put(id, name, wantTypes[id]))
	}
	got, err := names.All()
	must(t, err)
	expect(t, "names", got, want)
	types, err := names.Types()
	must(t, err)
	expect(t, "types", types, wantTypes)
	for kind, same := range map[maps.Type]bool{maps.LoadBalancerType: true, maps.PendingLoadBalancer: false} {
		holds, err := names.Holds(2, want[2], kind)
		must(t, err)
		expect(t, fmt.Sprintf("whether the type is %d", kind), holds, same)
	}
	expectError(t, names.Put(4, want[2], maps.PlainType), "service default/web (UDP, IPv6): the map service_names is full (3 elements)")
	for id := range want {
		must(t, names.Delete(id))
		must(t, names.Delete(id))
	}
	got, err = names.All()
	must(t, err)
	expect(t, "names", got, map[uint32]maps.Name{})
}

func TestNodeAddrs(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"node_addrs4": 2})
	set := maps.NewNodeAddrs(p)
	local, answers := maps.NodeAddr{Local: true}, maps.NodeAddr{Local: true, NodePorts: true}
	for _, want := range []map[netip.Addr]maps.NodeAddr{
		{addr("10.0.0.1"): answers, addr("2001:db8::1"): local},
		{addr("10.0.0.1"): local, addr("10.0.0.2"): answers},
		{},
		{addr("fd00::1"): answers, addr("fd00::2"): local, addr("fd00::3"): {NodePorts: true}},
	} {
		must(t, set.Set(want))
		got, err := set.All()
		must(t, err)
		expect(t, "node addresses", got, want)
	}
	expectKey(t, p.Map("node_addrs6"), addr("fd00::1").AsSlice())

	// Addresses that NodePorts answer on come first. An address that is gone makes room later.
	err := set.Set(map[netip.Addr]maps.NodeAddr{addr("10.0.0.1"): local, addr("10.0.0.2"): local, addr("10.0.0.3"): answers})
	expectError(t, err, "node address 10.0.0.2: the map node_addrs4 is full (2 elements)")
	want := map[netip.Addr]maps.NodeAddr{addr("10.0.0.4"): answers, addr("10.0.0.3"): answers}
	expectError(t, set.Set(want), "node address 10.0.0.4: the map node_addrs4 is full (2 elements)")
	must(t, set.Set(want))
	got, err := set.All()
	must(t, err)
	expect(t, "node addresses", got, want)
}

func TestDevices(t *testing.T) {
	p := mapstest.New(t, map[string]uint32{"devices": 3})
	table := maps.NewDevices(p)
	const lo = 1 // the one device that every namespace has
	want := map[int]maps.Device{
		0:    {Addr4: addr("10.0.0.1"), Addr6: addr("fd00::1")},
		lo:   {XDPTransmits: true, TCTransmits: true, EgressHook: true, Addr4: addr("10.0.0.2")},
		4711: {EgressHook: true},
	}
	for index, dev := range want {
		must(t, table.Put(index, dev))
	}
	got, err := table.All()
	must(t, err)
	expect(t, "devices", got, want)
	expectRedirects(t, p, lo)
	expectError(t, table.Put(5, maps.Device{}), "device 5: the map devices is full (3 elements)")
	must(t, table.Put(lo, maps.Device{EgressHook: true}))
	expectRedirects(t, p)
	must(t, table.Delete(lo))
	must(t, table.Delete(lo))
	got, err = table.All()
	must(t, err)
	delete(want, lo)
	expect(t, "devices", got, want)
}

// expectRedirects lists the devices that XDP may transmit on.
func expectRedirects(t *testing.T, p maps.Provider, want ...uint32) {
	t.Helper()
	var got []uint32
	var index, target uint32
	for it := p.Map("xdp_devices").Iterate(); it.Next(&index, &target); {
		got = append(got, index)
	}
	expect(t, "xdp_devices", got, want)
}

func TestCounters(t *testing.T) {
	p := mapstest.New(t, nil)
	cpus, err := ebpf.PossibleCPU()
	must(t, err)
	last := uint32(bpf.HookCount)*uint32(bpf.VerdictCount) - 1
	for _, index := range []uint32{0, last} {
		perCPU := make([]bpf.Counter, cpus)
		for cpu := range perCPU {
			perCPU[cpu] = bpf.Counter{Packets: uint64(cpu + 1), Bytes: 1 << 40}
		}
		must(t, p.Map("counters").Put(index, perCPU))
	}
	got, err := maps.ReadCounters(p)
	must(t, err)
	packets := uint64(cpus) * uint64(cpus+1) / 2
	expect(t, "counters", got, []maps.Counter{
		{Hook: bpf.HookXDP, Verdict: bpf.VerdictNotIP, Packets: packets, Bytes: uint64(cpus) << 40},
		{Hook: bpf.HookCount - 1, Verdict: bpf.VerdictCount - 1, Packets: packets, Bytes: uint64(cpus) << 40},
	})
}

// Every hook and verdict has a name, and no two have the same.
func TestCountersAreNamed(t *testing.T) {
	seen := map[string]bool{"": true}
	for v := range bpf.VerdictCount {
		if name := bpf.VerdictName(v); seen[name] {
			t.Errorf("verdict %d is called %q", v, name)
		}
		seen[bpf.VerdictName(v)] = true
	}
	for h := range bpf.HookCount {
		if name := bpf.HookName(h); seen[name] {
			t.Errorf("hook %d is called %q", h, name)
		}
		seen[bpf.HookName(h)] = true
	}
}

func TestGeneration(t *testing.T) {
	p := mapstest.New(t, nil)
	for _, c := range [][2]uint32{{0, 1}, {1, 2}, {1<<32 - 1, 1}} { // records without a next hop have 0
		must(t, p.Map("runtime").Put(uint32(0), bpf.RuntimeState{Generation: c[0]}))
		must(t, maps.BumpGeneration(p))
		var got bpf.RuntimeState
		must(t, p.Map("runtime").Lookup(uint32(0), &got))
		expect(t, "generation", got.Generation, c[1])
	}
}

// Only the datapath writes records: here they are made from bytes on the wire.
func TestFlows(t *testing.T) {
	p := mapstest.New(t, nil)
	head := bpf.Flow{
		Service: 3, Backend: 4, LastSeen: 5, Flags: bpf.FlowExpress, Hop: 7<<32 | 1<<24 | 9,
		ToSport: wire16(50000), ToDport: wire16(8080), Sport: wire16(40000), Dport: wire16(80), Proto: unix.IPPROTO_TCP,
	}
	hop := bpf.Nexthop{Generation: 7, Family: unix.AF_INET, Addr: [4]uint32{wire32(10, 0, 0, 9)}}
	hop.Hop = bpf.Hop{Ifindex: 6, Dmac: [6]uint8{2, 0, 0, 0, 0, 1}, Flags: bpf.HopResolved, Mtu: 1400}
	must(t, p.Map("nexthops").Put(uint32(9), hop))
	var set4 bpf.FlowSet4
	set4.Ways.Tag[2] = bpf.WayLive | bpf.StateAnswered
	set4.At[2] = bpf.Flow4{
		Flow: head, Saddr: wire32(192, 0, 2, 1), Daddr: wire32(10, 96, 0, 1), ToSaddr: wire32(10, 0, 0, 1), ToDaddr: wire32(10, 1, 0, 1),
	}
	must(t, p.Map("flows4").Put(uint32(3), set4))
	var set6 bpf.FlowSet6
	set6.Ways.Tag[5] = bpf.WayLive
	head.Sport, head.Dport, head.Proto, head.Zone, head.Hop = wire16(1), wire16(53), unix.IPPROTO_UDP, uint8(bpf.ZoneLeaving), 6<<32|9
	set6.At[5] = bpf.Flow6{
		Flow: head, Saddr: words("2001:db8::1"), Daddr: words("fd00::1"), ToSaddr: words("fd00::2"), ToDaddr: words("fd00::3"),
	}
	must(t, p.Map("flows6").Put(uint32(7), set6))

	flow := maps.Flow{
		Key:     maps.Tuple{Src: ap("192.0.2.1:40000"), Dst: ap("10.96.0.1:80"), Proto: unix.IPPROTO_TCP},
		To:      maps.Tuple{Src: ap("10.0.0.1:50000"), Dst: ap("10.1.0.1:8080"), Proto: unix.IPPROTO_TCP},
		Service: 3, Backend: 4, LastSeen: 5, State: bpf.StateAnswered, Flags: bpf.FlowExpress,
		NextHop: maps.NextHop{
			Ifindex: 6, Neighbour: netip.MustParseAddr("10.0.0.9"), MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1400, Generation: 7,
		},
	}
	expectFlows(t, p, maps.IPv4, flow)
	flow.Key = maps.Tuple{Src: ap("[2001:db8::1]:1"), Dst: ap("[fd00::1]:53"), Proto: unix.IPPROTO_UDP, Zone: bpf.ZoneLeaving}
	flow.To = maps.Tuple{Src: ap("[fd00::2]:50000"), Dst: ap("[fd00::3]:8080"), Proto: unix.IPPROTO_UDP, Zone: bpf.ZoneLeaving}
	flow.State, flow.NextHop = 0, maps.NextHop{} // looked up before a route changed
	expectFlows(t, p, maps.IPv6, flow)
}

// TestSetNeighbour: one write changes all flows by way of a neighbour, and no other neighbour.
func TestSetNeighbour(t *testing.T) {
	p := mapstest.New(t, nil)
	element := func(ifindex, addr uint32) bpf.Nexthop {
		e := bpf.Nexthop{Generation: 1, Family: unix.AF_INET, Addr: [4]uint32{addr}}
		e.Hop = bpf.Hop{Ifindex: ifindex, Dmac: [6]uint8{2, 0, 0, 0, 0, 1}, Flags: bpf.HopResolved | bpf.HopTC, Mtu: 1500}
		return e
	}
	moves := wire32(10, 0, 0, 1)
	must(t, p.Map("nexthops").Put(uint32(3), element(2, moves)))
	must(t, p.Map("nexthops").Put(uint32(4), element(3, moves)))
	must(t, p.Map("nexthops").Put(uint32(5), element(2, wire32(10, 0, 0, 2))))
	hops := maps.NewNextHops(p)
	get := func(index uint32) (e bpf.Nexthop) {
		must(t, p.Map("nexthops").Lookup(index, &e))
		return e
	}

	must(t, hops.SetNeighbour(2, netip.MustParseAddr("10.0.0.1"), net.HardwareAddr{2, 0, 0, 0, 0, 9}))
	want := element(2, moves)
	want.Hop.Dmac[5] = 9
	expect(t, "the neighbour that moved", get(3), want)
	expect(t, "the same address on another device", get(4), element(3, moves))
	expect(t, "another neighbour", get(5), element(2, wire32(10, 0, 0, 2)))

	must(t, hops.SetNeighbour(2, netip.MustParseAddr("10.0.0.1"), nil))
	want.Hop.Flags = bpf.HopTC
	expect(t, "the neighbour that is gone", get(3), want)
	var state bpf.RuntimeState
	must(t, p.Map("runtime").Lookup(uint32(0), &state))
	expect(t, "changes counted", state.Neighbours, uint32(2))
}

func expectFlows(t *testing.T, p maps.Provider, f maps.Family, want maps.Flow) {
	t.Helper()
	var got []maps.Flow
	must(t, maps.Flows(p, f, func(flow maps.Flow) bool {
		got = append(got, flow)
		return true
	}))
	if len(got) != 1 || fmt.Sprint(got[0]) != fmt.Sprint(want) {
		t.Errorf("IPv%d flows:\ngot  %v\nwant %v", f, got, want)
	}
}

// The walk ends when fn returns false, and skips ways that are not LIVE.
func TestFlowsStop(t *testing.T) {
	p := mapstest.New(t, nil)
	var one, four bpf.FlowSet4
	one.Ways.Tag[0] = bpf.WayLive
	four.Ways.Tag = [bpf.Ways]uint32{
		0: bpf.TagVersion, 1: bpf.WayLive | 1<<31, 2: bpf.WayLive, 3: bpf.WayMask - 1, 4: bpf.WayLive | bpf.StateConfirmed, 5: 1, 7: bpf.WayLive,
	}
	must(t, p.Map("flows4").Put(uint32(3), one))
	must(t, p.Map("flows4").Put(uint32(9), four))
	for _, limit := range []int{1, 3, 5, 10} {
		n := 0
		must(t, maps.Flows(p, maps.IPv4, func(maps.Flow) bool {
			n++
			return n < limit
		}))
		if n != min(limit, 5) {
			t.Errorf("limit %d: %d records", limit, n)
		}
	}
}

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

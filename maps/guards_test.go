// SPDX-License-Identifier: Apache-2.0

package maps_test

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/maps/mapstest"
)

func prefixes(all ...string) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range all {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func TestSources(t *testing.T) {
	p := mapstest.New(t, nil)
	sources := maps.NewSources(p)
	read := func() map[uint32][]netip.Prefix {
		t.Helper()
		all, err := sources.All()
		must(t, err)
		for _, set := range all {
			slices.SortFunc(set, netip.Prefix.Compare)
		}
		return all
	}
	must(t, sources.Set(7, prefixes("10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "::/0")))
	must(t, sources.Set(maps.LocalSources, prefixes("10.244.0.7/16")))
	want := map[uint32][]netip.Prefix{
		7:                 prefixes("0.0.0.0/0", "10.0.0.0/8", "10.1.2.3/32", "::/0", "fd00::/8"),
		maps.LocalSources: prefixes("10.244.0.0/16"),
	}
	expect(t, "sources", read(), want)
	// The key that a program uses for 10.1.9.9.
	expectTrie(t, p, bpf.SourceKey4{Prefixlen: 64, Service: 7, Addr: 0x0909010a}, true)
	expectTrie(t, p, bpf.SourceKey4{Prefixlen: 64, Service: 8, Addr: 0x0909010a}, false)
	expectTrie(t, p, bpf.SourceKey4{Prefixlen: 64, Service: maps.LocalSources, Addr: 0x0909010a}, false)

	must(t, sources.Set(7, prefixes("10.1.2.3/32", "192.0.2.0/24")))
	must(t, sources.Put(7, netip.MustParsePrefix("fd00::/8")))
	must(t, sources.Delete(7, netip.MustParsePrefix("fd00::/8")))
	must(t, sources.Delete(7, netip.MustParsePrefix("fd00::/8"))) // no error, though the prefix isn't there
	want[7] = prefixes("10.1.2.3/32", "192.0.2.0/24")
	expect(t, "sources", read(), want)
	expectTrie(t, p, bpf.SourceKey4{Prefixlen: 64, Service: 7, Addr: 0x0909010a}, false)
}

func expectTrie(t *testing.T, p mapstest.Maps, key bpf.SourceKey4, want bool) {
	t.Helper()
	var one uint8
	if err := p.Map("source_ranges4").Lookup(key, &one); (err == nil) != want {
		t.Errorf("%+v: %v, want it to be found: %t", key, err, want)
	}
}

func TestClusterAddrs(t *testing.T) {
	p := mapstest.New(t, nil)
	set := maps.NewClusterAddrs(p)
	want := []netip.Addr{addr("10.96.0.1"), addr("10.96.0.2"), addr("fd00::1")}
	for _, a := range want {
		must(t, set.Put(a))
		must(t, set.Put(a))
	}
	theirs := addr("10.96.0.9")
	must(t, set.Put(theirs))
	must(t, set.PutOthers(theirs))
	got, others, err := set.All()
	must(t, err)
	slices.SortFunc(got, netip.Addr.Compare)
	expect(t, "cluster IPs", got, want)
	expect(t, "other proxies'", others, []netip.Addr{theirs})
	expectKey(t, p.Map("cluster_addrs"), addr("::ffff:10.96.0.1").AsSlice())
	expectKey(t, p.Map("cluster_addrs"), addr("fd00::1").AsSlice())
	must(t, set.Delete(want[0]))
	must(t, set.Delete(want[0]))
	got, _, err = set.All()
	must(t, err)
	expect(t, "cluster IPs, of three", len(got), 2)
}

// expectTakenTurns: SetRanges does not write the set that programs may be reading.
func expectTakenTurns(t *testing.T, p maps.Provider, set *maps.ClusterAddrs) {
	t.Helper()
	read := func() (guard bpf.ClusterGuard) {
		must(t, p.Map("cluster_ranges").Lookup(uint32(0), &guard))
		return guard
	}
	for _, prefix := range []string{"10.0.0.0/8", "10.0.0.0/9", "10.0.0.0/10"} {
		before := read()
		for range 2 { // the same ranges again change nothing
			must(t, set.SetRanges([]maps.ClusterRange{{Prefix: netip.MustParsePrefix(prefix)}}))
		}
		after := read()
		expect(t, "current", after.Current, before.Current+1)
		expect(t, "the set that was in force", after.Sets[before.Current&1], before.Sets[before.Current&1])
	}
}

func TestClusterRanges(t *testing.T) {
	p := mapstest.New(t, nil)
	set := maps.NewClusterAddrs(p)
	for _, want := range [][]maps.ClusterRange{
		nil,
		{{Prefix: netip.MustParsePrefix("10.96.0.0/16"), Drop: true}, {Prefix: netip.MustParsePrefix("10.0.0.1/32")}, {Prefix: netip.MustParsePrefix("fd00::/112")}},
		{{Prefix: netip.MustParsePrefix("0.0.0.0/0")}, {Prefix: netip.MustParsePrefix("::/0"), Drop: true}},
		nil,
	} {
		must(t, set.SetRanges(want))
		got, err := set.Ranges()
		must(t, err)
		expect(t, "ranges", got, want)
	}
	expectTakenTurns(t, p, set)
	var many []maps.ClusterRange
	for i := range maps.MaxClusterRanges + 1 {
		many = append(many, maps.ClusterRange{Prefix: netip.MustParsePrefix(fmt.Sprintf("10.%d.0.0/16", i))})
	}
	must(t, set.SetRanges(many[1:]))
	expectError(t, set.SetRanges(many), fmt.Sprintf("cluster_ranges: range 10.%d.0.0/16: there are more than %d", maps.MaxClusterRanges, maps.MaxClusterRanges))
}

// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

var updateLayouts = flag.Bool("update", false, "write the layouts of maps anew to testdata/layouts.txt")

// meanings are the enumerations that define what the elements of a map mean.
var meanings = map[string][]string{
	"backend_stats":  {"direction"},
	"backends":       {"backend_flags"},
	"cluster_addrs":  {"cluster_addr"},
	"cluster_ranges": {"cluster_range_flags"},
	"counters":       {"hook", "verdict"},
	"devices":        {"device_flags"},
	"flows4":         {"flow_flags", "flow_tag", "zone"},
	"flows6":         {"flow_flags", "flow_tag", "zone"},
	"fragments":      {"zone"},
	"nexthops":       {"hop_flags"},
	"node_addrs4":    {"node_addr_flags"},
	"node_addrs6":    {"node_addr_flags"},
	"service_stats":  {"direction", "verdict"},
	"services4":      {"service_flags"},
	"services6":      {"service_flags"},
}

// TestLayouts: a map whose layout or whose elements' meaning changes needs a new version in layout.go, which
// says what to do with maps of the version before. Then, and where a change keeps what was there before,
// run: go test ./loader -run TestLayouts -update.
func TestLayouts(t *testing.T) {
	spec, err := bpf.Spec()
	must(t, err)
	var got strings.Builder
	for _, name := range takePinning(spec) {
		m := spec.Maps[name]
		fmt.Fprintf(&got, "%s, layout %d: %s, flags %#x\n", name, layoutOf(name).version, m.Type, m.Flags)
		fmt.Fprintf(&got, "  key %s\n  value %s\n", describeType(m.Key, 2), describeType(m.Value, 2))
		for _, enum := range meanings[name] {
			var typ *btf.Enum
			must(t, spec.Types.TypeByName(enum, &typ))
			fmt.Fprintf(&got, "  %s\n", describeType(typ, 2))
		}
	}
	const path = "testdata/layouts.txt"
	if *updateLayouts {
		must(t, os.WriteFile(path, []byte(got.String()), 0o644))
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got.String() != string(want) {
		t.Errorf("layouts have changed, see the comment on this test. They are:\n%s", got.String())
	}
}

func describeType(typ btf.Type, depth int) string {
	indent := strings.Repeat("  ", depth)
	switch typ := btf.UnderlyingType(typ).(type) {
	case nil:
		return "none"
	case *btf.Struct:
		var s strings.Builder
		fmt.Fprintf(&s, "struct %s, %d bytes", typ.Name, typ.Size)
		for _, m := range typ.Members {
			fmt.Fprintf(&s, "\n%s%d %s: %s", indent, m.Offset.Bytes(), m.Name, describeType(m.Type, depth+1))
		}
		return s.String()
	case *btf.Array:
		return fmt.Sprintf("%d of %s", typ.Nelems, describeType(typ.Type, depth))
	case *btf.Enum:
		values := make([]string, len(typ.Values))
		for i, v := range typ.Values {
			values[i] = fmt.Sprintf("%s=%d", v.Name, v.Value)
		}
		return fmt.Sprintf("enum %s: %s", typ.Name, strings.Join(values, " "))
	case *btf.Int:
		return fmt.Sprintf("%s, %d bytes", typ.Name, typ.Size)
	default:
		return fmt.Sprintf("%T", typ)
	}
}

// setLayout marks a pinned map as one of another release.
func setLayout(t *testing.T, dir, name string, version uint32) {
	t.Helper()
	layouts, err := pinDir(dir).openLayouts(nil)
	must(t, err)
	defer layouts.close()
	must(t, layouts.set(openPinned(t, dir, name), version))
}

func openPinned(t *testing.T, dir, name string) *ebpf.Map {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(pinDir(dir).mapPin(name), nil)
	must(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

func mapIDOf(t *testing.T, m *ebpf.Map) ebpf.MapID {
	t.Helper()
	id, err := mapID(m)
	must(t, err)
	return id
}

// TestLaterLayoutRefused: maps of a later release are refused, with the reason, and stay unchanged.
func TestLaterLayoutRefused(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	mustClose(t, mustLoad(t, small(dir)))
	setLayout(t, dir, "services4", 7)
	pins, program := pinsBelow(t, dir), pinDir(dir).programPin("waggle_ingress")
	id, err := pinnedProgramID(program)
	must(t, err)

	_, err = Load(small(dir))
	if err == nil || !strings.Contains(err.Error(), "maps/services4 has layout 7, of a later version of waggle, and this one knows layout 1: nothing was changed") {
		t.Errorf("Load: %v", err)
	}
	if after := pinsBelow(t, dir); !slices.Equal(pins, after) {
		t.Errorf("pins before %v, after %v", pins, after)
	}
	if after, err := pinnedProgramID(program); err != nil || after != id {
		t.Errorf("the pinned program is %d (%v), was %d", after, err, id)
	}
	if v, err := Open(dir); err == nil || !strings.Contains(err.Error(), "of another version of waggle") {
		t.Errorf("Open: %v, %v", v, err)
	}
	setLayout(t, dir, "services4", 1)
	mustLoad(t, small(dir))
}

// TestTooOldLayoutRefused: a step of more than one release is refused in the same way.
func TestTooOldLayoutRefused(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	mustClose(t, mustLoad(t, small(dir)))
	setLayout(t, dir, "flows4", 0)
	if _, err := Load(small(dir)); err == nil || !strings.Contains(err.Error(), "converts layout 1") {
		t.Errorf("Load: %v", err)
	}
}

// TestEarlierLayouts: of maps of the layout before, caches start empty, and the others keep their content.
func TestEarlierLayouts(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	mustClose(t, mustLoad(t, small(dir)))
	addr := bpf.Addr{Word: [4]uint32{1, 2, 3, 4}}
	must(t, openPinned(t, dir, "node_addrs6").Put(&addr, bpf.NodeAddrNodePorts))
	must(t, openPinned(t, dir, "node_addrs4").Put(uint32(5), bpf.NodeAddrNodePorts))
	before := map[string]ebpf.MapID{}
	for name := range layouts {
		if layoutOf(name).change == flowsConverted {
			continue
		}
		setLayout(t, dir, name, 1)
		before[name] = mapIDOf(t, openPinned(t, dir, name))
	}
	other, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1})
	must(t, err)
	defer other.Close()
	must(t, other.Pin(pinDir(dir).mapPin("of_yesterday")))

	d := mustLoad(t, small(dir))
	for name, id := range before {
		if same := mapIDOf(t, d.Map(name)) == id; same != (layoutOf(name).change != anew) {
			t.Errorf("the map %s stays: %t", name, same)
		}
	}
	var flags uint8
	if err := d.Map("node_addrs6").Lookup(&addr, &flags); err != nil || flags != bpf.NodeAddrNodePorts|bpf.NodeAddrLocal {
		t.Errorf("node_addrs6: %d, %v", flags, err)
	}
	if err := d.Map("node_addrs4").Lookup(uint32(5), &flags); err != nil || flags != bpf.NodeAddrNodePorts|bpf.NodeAddrLocal {
		t.Errorf("node_addrs4: %d, %v", flags, err)
	}
	if _, err := os.Stat(pinDir(dir).mapPin("of_yesterday")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin of a map that this release does not have: %v", err)
	}
	if len(d.OldFlows()) != 0 {
		t.Errorf("flows to be converted: %v", d.OldFlows())
	}
	mustClose(t, d)
	d = mustLoad(t, small(dir)) // from now on the maps have this layout
	for name, id := range before {
		if layoutOf(name).change != anew && mapIDOf(t, d.Map(name)) != id {
			t.Errorf("the map %s does not stay", name)
		}
	}
}

// pinOldFlows leaves tables of flows as the previous release does.
func pinOldFlows(t *testing.T, dir string) map[string]ebpf.MapID {
	t.Helper()
	must(t, pinDir(dir).create())
	ids := map[string]ebpf.MapID{}
	for name, spec := range map[string]*ebpf.MapSpec{
		"flows4":     {Type: ebpf.Hash, KeySize: 16, ValueSize: 56, MaxEntries: 64},
		"flows6":     {Type: ebpf.Hash, KeySize: 40, ValueSize: 80, MaxEntries: 64},
		"flows_new4": {Type: ebpf.Array, KeySize: 4, ValueSize: 640, MaxEntries: 64},
		"flows_new6": {Type: ebpf.Array, KeySize: 4, ValueSize: 1024, MaxEntries: 64},
	} {
		m, err := ebpf.NewMap(spec)
		must(t, err)
		must(t, m.Pin(pinDir(dir).mapPin(name)))
		ids[name] = mapIDOf(t, m)
		must(t, m.Close())
	}
	return ids
}

// TestOldFlowsStay: the tables of the previous release stay until they have been converted, even if the agent
// dies meanwhile.
func TestOldFlowsStay(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	ids := pinOldFlows(t, dir)
	for range 2 {
		d := mustLoad(t, small(dir))
		old := d.OldFlows()
		for name, id := range ids {
			if old[name] == nil || mapIDOf(t, old[name]) != id {
				t.Errorf("the old map %s: %v", name, old[name])
			}
		}
		if d.Map("flows4").Type() != ebpf.Array {
			t.Errorf("flows4 is %s", d.Map("flows4"))
		}
		mustClose(t, d)
	}
	d := mustLoad(t, small(dir))
	must(t, d.DropOldFlows())
	if len(d.OldFlows()) != 0 {
		t.Errorf("flows to be converted: %v", d.OldFlows())
	}
	for _, pin := range pinsBelow(t, filepath.Join(dir, "maps")) {
		if name := filepath.Base(pin); strings.Contains(name, "old") || strings.Contains(name, "new") {
			t.Errorf("%s is left", pin)
		}
	}
	mustClose(t, d)
	if d = mustLoad(t, small(dir)); len(d.OldFlows()) != 0 {
		t.Errorf("flows to be converted: %v", d.OldFlows())
	}
}

// TestConvert: a record is made once, follows later changes of the old one, and replaces no other record.
func TestConvert(t *testing.T) {
	newNetns(t)
	dir := newPinDir(t)
	pinOldFlows(t, dir)
	d := mustLoad(t, small(dir))
	for _, family := range []uint32{unix.AF_INET, unix.AF_INET6} {
		c := bpf.Conversion{
			Key:    bpf.Tuple{Sport: 1, Dport: 2, Proto: unix.IPPROTO_TCP},
			To:     bpf.Tuple{Sport: 3, Dport: 4, Proto: unix.IPPROTO_TCP},
			Family: family, Service: 5, Backend: 6, Flags: bpf.FlowExpress,
		}
		c.Key.Saddr.Word[0], c.Key.Daddr.Word[0], c.To.Saddr.Word[0], c.To.Daddr.Word[0] = 7, 8, 9, 10
		must(t, jiffies(d, &c.LastSeen))
		c.LastSeen -= 10
		expectConverted(t, d, c, true, nil)
		c.State |= bpf.StateAnswered
		c.Expect = 77
		expectConverted(t, d, c, false, nil)
		c.State |= bpf.StateConfirmed | bpf.StateFinClient
		c.LastSeen += 5
		expectConverted(t, d, c, false, nil)
		other := c
		other.To.Sport++
		if _, err := d.Convert(other); !errors.Is(err, ErrOtherFlow) {
			t.Errorf("a flow whose tuple is another's: %v", err)
		}
		expectRecord(t, d, c)
	}
}

func jiffies(d *Datapath, now *uint32) (err error) {
	*now, err = runJiffies(d.Program(jiffiesProgram))
	return err
}

func expectConverted(t *testing.T, d *Datapath, c bpf.Conversion, added bool, want error) {
	t.Helper()
	got, err := d.Convert(c)
	if got != added || !errors.Is(err, want) {
		t.Errorf("Convert: %t, %v, want %t, %v", got, err, added, want)
	}
	expectRecord(t, d, c)
}

// expectRecord expects one record, made from c.
func expectRecord(t *testing.T, d *Datapath, c bpf.Conversion) {
	t.Helper()
	var flows []bpf.Flow
	var states []uint32
	note := func(ways bpf.FlowWays, at func(int) bpf.Flow) {
		for i, tag := range ways.Tag {
			if tag&bpf.WayMask == bpf.WayLive {
				flows, states = append(flows, at(i)), append(states, tag&bpf.StateMask)
			}
		}
	}
	var index uint32
	if c.Family == unix.AF_INET {
		var set bpf.FlowSet4
		for it := d.Map("flows4").Iterate(); it.Next(&index, &set); {
			note(set.Ways, func(i int) bpf.Flow { return set.At[i].Flow })
		}
	} else {
		var set bpf.FlowSet6
		for it := d.Map("flows6").Iterate(); it.Next(&index, &set); {
			note(set.Ways, func(i int) bpf.Flow { return set.At[i].Flow })
		}
	}
	if len(flows) != 1 {
		t.Fatalf("%d records, want one", len(flows))
	}
	f := flows[0]
	if states[0] != c.State || f.LastSeen != c.LastSeen || f.Service != c.Service || f.Backend != c.Backend ||
		f.Flags != c.Flags || f.ToSport != c.To.Sport || f.ToDport != c.To.Dport {
		t.Errorf("the record %+v, state %d, is not made of %+v", f, states[0], c)
	}
	if c.State&bpf.StateAnswered != 0 && f.Expect != c.Expect {
		t.Errorf("the record expects %d, want %d", f.Expect, c.Expect)
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/test/model"
)

// explained are the programs of the explain twin: those of packets, and the one about sockets.
var explained = []string{"waggle_xdp", "waggle_ingress", "waggle_egress", "waggle_pod", "waggle_ingress_l3", "waggle_egress_l3"}

// wholeSpec is the datapath with the program about sockets, which only the twin has.
func wholeSpec(t *testing.T) *ebpf.CollectionSpec {
	t.Helper()
	spec, err := bpf.Whole()
	if *object != "" {
		spec, err = ebpf.LoadCollectionSpec(*object)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if m.Name != "counters" {
			m.MaxEntries = min(m.MaxEntries, mapSize)
		}
	}
	return spec
}

// writable are the maps that a test can't make read-only for the verifier: the twin's own, and those whose values are
// passed to functions that the verifier proves alone, where it takes the pointer for one to writable memory. No
// kernel lets programs write to a devmap or an array of maps by a pointer, or has a read-only kind of sk_storage.
var writable = []string{
	"scratch_map", "counters", ".data.trace", ".rodata", "walk_map", "services4", "services6", "xdp_devices", "sock_peers", "watchers",
}

// TestExplainTwinHasNoWrites: the verifier accepts the programs of the twin on maps that programs may only read. So
// none of their instructions or calls writes to one. It refuses the running programs there.
func TestExplainTwinHasNoWrites(t *testing.T) {
	// The verifier of 6.1 also refuses the twin there. It is not known what it takes for a write.
	if version, err := features.LinuxVersionCode(); err != nil || version < 6<<16|18<<8 {
		t.Skipf("known on Linux 6.18 only (this is %#x, %v)", version, err)
	}
	enter(t)
	spec := wholeSpec(t)
	for name, m := range spec.Maps {
		if !slices.Contains(writable, name) {
			m.Flags |= unix.BPF_F_RDONLY_PROG
		}
	}
	must(bpf.Fit(spec))
	onlyMaps := spec.Copy()
	clear(onlyMaps.Programs)
	live, err := ebpf.NewCollection(onlyMaps)
	if err != nil {
		t.Fatal(err)
	}
	defer live.Close()
	twin, err := loader.NewTwin(spec, live.Maps)
	if err != nil {
		t.Fatal(err)
	}
	defer twin.Close()
	for _, name := range explained {
		onlyReads(t, twin, name)
		one := spec.Copy()
		maps.DeleteFunc(one.Programs, func(other string, _ *ebpf.ProgramSpec) bool { return other != name })
		coll, err := ebpf.NewCollectionWithOptions(one, ebpf.CollectionOptions{MapReplacements: live.Maps})
		if err == nil {
			coll.Close()
			t.Errorf("%s: the verifier takes the running program on maps that it may not write to", name)
		} else if !forbidden(err) {
			t.Errorf("%s: the verifier refuses the running program for another reason: %v", name, err)
		}
	}
	if *object == "" {
		onlyReads(t, twin, bpf.ExplainProgram)
	}
}

// onlyReads loads a program of the twin on maps that programs may only read.
func onlyReads(t *testing.T, twin *loader.Twin, name string) {
	t.Helper()
	switch err := twin.Load(name); {
	case forbidden(err):
		t.Errorf("the twin of %s writes to a map", name)
	case err != nil:
		t.Errorf("%+v", err)
	}
}

// forbidden reports whether the verifier has refused a program for a write to a map.
func forbidden(err error) bool {
	return err != nil && strings.Contains(fmt.Sprintf("%+v", err), "write into map forbidden")
}

// outcome is the result for a packet.
type outcome struct {
	verdict bpf.Verdict
	action  model.Action
}

func (o outcome) String() string { return fmt.Sprintf("%s, %s", verdictName(o.verdict), o.action) }

func verdictName(v bpf.Verdict) string {
	if v >= bpf.VerdictCount {
		return "none"
	}
	return bpf.VerdictName(v)
}

// ask returns the possible outcomes of a packet from the twin: one, or one for each backend that may be chosen.
func (d *datapath) ask(hook bpf.Hook, program string, device int, frame []byte) (outcomes []outcome, err error) {
	if d.twin == nil {
		if d.twin, err = loader.NewTwin(d.spec, d.maps); err != nil {
			return nil, err
		}
	}
	for pick := uint32(0); ; pick++ {
		trace, err := d.twin.Packet(program, device, frame, pick)
		if err != nil {
			return nil, err
		}
		action, err := actionOf(hook, trace.Action)
		if err != nil {
			return nil, err
		}
		outcomes = append(outcomes, outcome{trace.Verdict, action})
		scope := trace.Notes.Service.External
		if trace.Opening.Internal {
			scope = trace.Notes.Service.Internal
		}
		if trace.Notes.Steps&bpf.TraceRandom == 0 || pick+1 >= scope.Count {
			return outcomes, nil
		}
	}
}

// TestExplainChangesNothing: the twin changes no bit of any map, on all packets of the beginnings of some scripts.
// All maps are read twice for each packet, which takes seconds on a slow machine. If a script lasted longer than a second
// of the fuzzed node, its records would be older than the model's. So when half of that second has passed, the maps are
// no longer read.
func TestExplainChangesNothing(t *testing.T) {
	enter(t)
	nodes := make(fuzzNodes)
	packets := 0
	for seed := range uint64(24) {
		s := generate(seed)
		s.Steps = s.Steps[:min(len(s.Steps), 24)]
		node := nodes.get(t, s.Settings)
		began, err := node.jiffies()
		must(err)
		node.guard = func(ask func() error) error {
			now, err := node.jiffies()
			if err != nil || now-began > fuzzSecond/2 {
				return errors.Join(err, ask())
			}
			packets++
			return node.unchanged(ask)
		}
		if _, err := node.play(s, false, quiet); err != nil {
			t.Errorf("seed %d: %v", seed, err)
		}
		node.guard = nil
	}
	if packets < 100 {
		t.Errorf("only %d packets were explained", packets)
	}
	t.Logf("%d packets", packets)
}

// unchanged fails if a call changes any map.
func (n *fuzzNode) unchanged(call func() error) error {
	before, err := n.bits()
	if err != nil {
		return err
	}
	called := call()
	after, err := n.bits()
	if err != nil {
		return err
	}
	for name := range before {
		if !bytes.Equal(before[name], after[name]) {
			return fmt.Errorf("explaining a packet has changed the map %s", name)
		}
	}
	return called
}

// withTwin also asks the twin about each packet of a node from now on. TestModel does so with all its packets. This
// is for other situations, such as full tables. (It does not work where a halved flow finds no room for its lost
// half: the twin looks up records that it would have replaced by then.)
func (n *node) withTwin() *node {
	n.explained = true
	return n
}

// explain asks the twin about a packet. It returns a check that the program's verdict is one that the twin has named.
func (n *node) explain(hook bpf.Hook, program string, d *device, frame []byte) func(result) result {
	n.t.Helper()
	if !n.explained {
		return func(r result) result { return r }
	}
	explained, failed := n.ask(hook, program, d.index, frame)
	return func(r result) result {
		r.t.Helper()
		action, err := actionOf(hook, r.action)
		must(err)
		if now := (outcome{r.verdict, action}); !slices.Contains(explained, now) {
			r.t.Errorf("%s: it was explained as %v (%v), and is %s", program, explained, failed, now)
		}
		return r
	}
}

// explain returns the outcomes of a packet that the twin names.
func (n *fuzzNode) explain(hook bpf.Hook, device int, frame []byte) (outcomes []outcome, err error) {
	ask := func() error {
		outcomes, err = n.ask(hook, fuzzPrograms[hook], device, frame)
		return err
	}
	if n.guard != nil {
		err = n.guard(ask)
	} else {
		err = ask()
	}
	return outcomes, err
}

// memoryOf maps an array to memory, which makes reads fast: a script must end before a second of its time has passed.
// nil: the array can't be mapped.
func (n *fuzzNode) memoryOf(name string) (*ebpf.Memory, error) {
	if n.maps[name].Flags()&unix.BPF_F_MMAPABLE == 0 {
		return nil, nil
	}
	if n.memories == nil {
		n.memories = map[string]*ebpf.Memory{}
	}
	if n.memories[name] == nil {
		memory, err := n.maps[name].Memory()
		if err != nil {
			return nil, err
		}
		n.memories[name] = memory
	}
	return n.memories[name], nil
}

// bits returns the content of all maps that can be read.
func (n *fuzzNode) bits() (map[string][]byte, error) {
	all := map[string][]byte{}
	for name, m := range n.maps {
		var content []byte
		switch m.Type() {
		case ebpf.SkStorage:
			continue
		case ebpf.Array:
			memory, err := n.memoryOf(name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			if memory != nil {
				content = make([]byte, memory.Size())
				if _, err := memory.ReadAt(content, 0); err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				break
			}
			fallthrough
		case ebpf.PerCPUArray:
			for i := range m.MaxEntries() {
				value, err := m.LookupBytes(i)
				if err != nil {
					return nil, fmt.Errorf("%s: %w", name, err)
				}
				content = append(content, value...)
			}
		default:
			keys, values, err := contents(m)
			if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
			content = bytes.Join(slices.Concat(keys, values), nil)
		}
		all[name] = content
	}
	return all, nil
}

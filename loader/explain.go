// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// Twin is the datapath loaded once more, with `explain` set: its programs decide about a packet as the running ones
// do, on the same maps, and write to none of them (bpf/trace.h). The twin runs only by test runs, in the network
// namespace of the caller. Close unloads it.
type Twin struct {
	mu       sync.Mutex // held while a program runs: the scratch memory has room for one packet
	spec     *ebpf.CollectionSpec
	types    *btf.Cache
	maps     map[string]*ebpf.Map // the live maps, and the twin's own
	programs map[string]*ebpf.Program
	running  func(program string) (tag string, err error) // nil: there are no running programs to compare with
	counted  []bpf.Counter
	scratch  *btf.Struct
}

// Trace is what the twin of a packet program has decided, and on which grounds. Members for steps that the packet
// did not reach are zero.
type Trace struct {
	Verdict bpf.Verdict
	Events  []bpf.Verdict // FlowOpened: the running program would open one
	Action  uint32        // what the program returned: XDP_*, TC_ACT_*
	Out     []byte        // the frame as it would leave the program
	Notes   bpf.Notes
	Packet  bpf.Packet // as parsed
	Record  bpf.Record // of its flow: found, or as it would be made
	Hop     bpf.Hop    // if the packet is sent past the stack
	Opening bpf.Opening
	Quoted  bpf.Tuple // the tuple that an ICMP error quotes
}

// The maps of which the twin has its own, as arrays with one element for each key: the twin runs on one CPU at a
// time.
const (
	scratchMap  = "scratch_map"
	countersMap = "counters"
	traceMap    = ".data.trace"
	rodataMap   = ".rodata"
)

// NewTwin makes a twin of the programs of a spec, whose constants are set, over the maps of the running programs.
func NewTwin(spec *ebpf.CollectionSpec, live map[string]*ebpf.Map) (*Twin, error) {
	return newTwin(parts{withOwnMaps(spec), btf.NewCache()}, live)
}

// withOwnMaps copies a spec, but for its programs: they are large, and are not changed.
func withOwnMaps(spec *ebpf.CollectionSpec) *ebpf.CollectionSpec {
	own := *spec
	own.Maps, own.Variables = map[string]*ebpf.MapSpec{}, map[string]*ebpf.VariableSpec{}
	for name, m := range spec.Maps {
		own.Maps[name] = m.Copy()
	}
	for name, v := range spec.Variables {
		own.Variables[name] = v.Copy()
	}
	return &own
}

// newTwin changes the maps and variables of the parts.
func newTwin(of parts, live map[string]*ebpf.Map) (*Twin, error) {
	t := &Twin{spec: of.spec, types: of.types, maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}}
	if err := errors.Join(t.spec.Variables["explain"].Set(true), t.spec.Variables["counting"].Set(false)); err != nil {
		return nil, fmt.Errorf("set the variables of a twin: %w", err)
	}
	scratch, ok := t.spec.Maps[scratchMap].Value.(*btf.Struct)
	if !ok {
		return nil, fmt.Errorf("the datapath has no type of the map %s", scratchMap)
	}
	t.scratch = scratch
	shared := map[string]*ebpf.Map{}
	for name, m := range t.spec.Maps {
		switch {
		case name == scratchMap || name == countersMap:
			m.Type = ebpf.Array
		case name == traceMap || name == rodataMap:
		case live[name] != nil:
			shared[name], m.MaxEntries = live[name], live[name].MaxEntries()
		}
		m.Pinning = ebpf.PinNone
	}
	coll, err := newMaps(t.spec, shared, t.types)
	if err != nil {
		return nil, fmt.Errorf("make the maps of the explain twin: %w", err)
	}
	t.maps = coll.Maps
	return t, nil
}

// Load loads a program of the twin. Without Load, the first run loads it.
func (t *Twin) Load(name string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	_, err := t.program(name)
	return err
}

func (t *Twin) program(name string) (*ebpf.Program, error) {
	if p := t.programs[name]; p != nil {
		return p, nil
	}
	if t.spec.Programs[name] == nil {
		return nil, fmt.Errorf("the datapath has no program %s", name)
	}
	p, err := newProgram(t.spec, name, t.maps, t.types)
	if err == nil {
		err = t.compare(p, name)
	}
	if err != nil {
		return nil, fmt.Errorf("load the explain twin of the program %s: %w", name, err)
	}
	t.programs[name] = p
	return p, nil
}

// compare refuses a twin of another program than the running one. The kernel's tag is a hash of the instructions
// before it has folded the constants, so both have the same. The program about sockets has no running counterpart.
// The functions that it calls are in programs that have one.
func (t *Twin) compare(p *ebpf.Program, name string) error {
	if t.running == nil || name == bpf.ExplainProgram {
		return nil
	}
	info, err := p.Info()
	if err != nil {
		return errors.Join(err, p.Close())
	}
	tag, err := t.running(name)
	if err == nil && tag != info.Tag {
		err = errOtherBuild
	}
	if err != nil {
		return errors.Join(err, p.Close())
	}
	return nil
}

// maxTestRun is how much of a frame a program gets, in bytes: the kernel takes less than a page.
const maxTestRun = 2048

// leastFrame is the least that the kernel takes for a frame, in bytes: an Ethernet header and, since Linux 6.18,
// bytes that could be an IP header.
const leastFrame = 64

// Packet returns what a program would do with a frame at a device. Where a program chooses a backend at random, it
// uses the number `pick`. A frame of a device without a link layer begins with the IP header.
func (t *Twin) Packet(program string, ifindex int, frame []byte, pick uint32) (*Trace, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.program(program)
	if err != nil {
		return nil, err
	}
	if err := t.begin(bpf.Notes{Pick: pick}); err != nil {
		return nil, err
	}
	frame = frame[:min(len(frame), maxTestRun)]
	opts := &ebpf.RunOptions{Data: frame, DataOut: make([]byte, len(frame)+256), Repeat: 1, Context: testContext(p, ifindex, len(frame))}
	action, err := p.Run(opts)
	if errors.Is(err, unix.EINVAL) {
		return nil, fmt.Errorf("%s takes no packet of %d bytes at the device with index %d: %w", program, len(frame), ifindex, err)
	}
	if err != nil {
		return nil, fmt.Errorf("run the explain twin of the program %s: %w", program, err)
	}
	trace := &Trace{Action: action, Out: opts.DataOut}
	return trace, t.end(trace)
}

// testContext is struct xdp_md or struct __sk_buff, with the members that a test run reads.
func testContext(p *ebpf.Program, ifindex, size int) any {
	if p.Type() == ebpf.XDP {
		return struct{ Data, DataEnd, DataMeta, Ingress, Queue, Egress uint32 }{DataEnd: uint32(size), Ingress: uint32(ifindex)}
	}
	return struct {
		_                [9]uint32
		Ingress, Ifindex uint32
		_                [37]uint32
	}{Ingress: uint32(ifindex), Ifindex: uint32(ifindex)}
}

// Socket returns what the socket hooks would do about a socket. The answer is in Notes.Socket.
func (t *Twin) Socket(q bpf.SocketQuestion, pick uint32) (bpf.Notes, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.program("waggle_connect4"); err != nil { // the program of the twin calls the functions of this one
		return bpf.Notes{}, err
	}
	p, err := t.program(bpf.ExplainProgram)
	if err != nil {
		return bpf.Notes{}, err
	}
	if err := t.begin(bpf.Notes{Socket: q, Pick: pick}); err != nil {
		return bpf.Notes{}, err
	}
	if _, err := p.Run(&ebpf.RunOptions{Data: make([]byte, leastFrame)}); err != nil {
		return bpf.Notes{}, fmt.Errorf("run the program %s: %w", bpf.ExplainProgram, err)
	}
	return t.notes()
}

func (t *Twin) begin(n bpf.Notes) error {
	if err := t.maps[traceMap].Put(uint32(0), n); err != nil {
		return fmt.Errorf("write the map %s: %w", traceMap, err)
	}
	if err := t.maps[scratchMap].Put(uint32(0), make([]byte, t.maps[scratchMap].ValueSize())); err != nil {
		return fmt.Errorf("write the map %s: %w", scratchMap, err)
	}
	return nil
}

func (t *Twin) notes() (n bpf.Notes, err error) {
	if err := t.maps[traceMap].Lookup(uint32(0), &n); err != nil {
		return n, fmt.Errorf("read the map %s: %w", traceMap, err)
	}
	return n, nil
}

// end reads what a packet program has left in its scratch memory.
func (t *Twin) end(trace *Trace) (err error) {
	if trace.Notes, err = t.notes(); err != nil {
		return err
	}
	left, err := t.maps[scratchMap].LookupBytes(uint32(0))
	if err != nil {
		return fmt.Errorf("read the map %s: %w", scratchMap, err)
	}
	for member, into := range map[string]any{
		"packet": &trace.Packet, "record": &trace.Record, "hop": &trace.Hop, "opening": &trace.Opening, "icmp": &trace.Quoted,
	} {
		if err := decodeMember(t.scratch, left, member, into); err != nil {
			return err
		}
	}
	return t.verdict(trace)
}

func decodeMember(s *btf.Struct, value []byte, member string, into any) error {
	for _, m := range s.Members {
		if m.Name == member {
			return binary.Read(bytes.NewReader(value[m.Offset.Bytes():]), binary.NativeEndian, into)
		}
	}
	return fmt.Errorf("struct %s has no member %s", s.Name, member)
}

// verdict finds out what the program has counted.
func (t *Twin) verdict(trace *Trace) error {
	m := t.maps[countersMap]
	keys, now := make([]uint32, m.MaxEntries()), make([]bpf.Counter, m.MaxEntries())
	var cursor ebpf.MapBatchCursor
	got, err := m.BatchLookup(&cursor, keys, now, nil)
	if err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) || got != len(keys) {
		return fmt.Errorf("read the map %s: %d of %d: %w", countersMap, got, len(keys), err)
	}
	before := t.counted
	t.counted = now
	trace.Verdict = bpf.VerdictNone
	for i, c := range now {
		verdict := bpf.Verdict(keys[i] % uint32(bpf.VerdictCount))
		switch {
		case before != nil && before[i].Packets == c.Packets, before == nil && c.Packets == 0:
		case verdict >= bpf.VerdictFlowOpened:
			trace.Events = append(trace.Events, verdict)
		default:
			trace.Verdict = verdict
		}
	}
	return nil
}

// Constant reads a constant of the programs by its name in C.
func (t *Twin) Constant(name string, into any) error {
	variable := t.spec.Variables[name]
	if variable == nil {
		return fmt.Errorf("the datapath has no constant %s", name)
	}
	if err := variable.Get(into); err != nil {
		return fmt.Errorf("read the constant %s: %w", name, err)
	}
	return nil
}

// Close unloads the twin. The maps that it shares stay.
func (t *Twin) Close() {
	closeAll(t.programs)
	closeMaps(t.maps) // duplicates of the live maps' descriptors
}

// Twin loads a twin of the programs that run, with their constants.
func (v *View) Twin() (*Twin, error) {
	if err := checkPrivileges(); err != nil {
		return nil, err
	}
	spec, err := bpf.Whole()
	if err != nil {
		return nil, err
	}
	constants, err := v.constants()
	if err != nil {
		return nil, err
	}
	if err := setConstants(spec, constants); err != nil {
		return nil, err
	}
	t, err := NewTwin(spec, v.maps)
	if err != nil {
		return nil, err
	}
	t.running = v.pins.tagOf
	return t, nil
}

// Twin loads a twin of the datapath's programs, with their constants.
func (d *Datapath) Twin() (*Twin, error) {
	p, err := d.parts()
	if err != nil {
		return nil, err
	}
	p.spec = withOwnMaps(p.spec)
	constants, err := d.collection.Maps[rodataMap].LookupBytes(uint32(0))
	if err != nil {
		return nil, fmt.Errorf("read the map %s: %w", rodataMap, err)
	}
	if err := setConstants(p.spec, constants); err != nil {
		return nil, err
	}
	return newTwin(p, d.collection.Maps)
}

// setConstants gives a spec the constants of programs that run.
func setConstants(spec *ebpf.CollectionSpec, constants []byte) error {
	for name, variable := range spec.Variables {
		if variable.SectionName != rodataMap {
			continue
		}
		if end := int(variable.Offset) + len(variable.Value); end > len(constants) {
			return fmt.Errorf("the programs that run have no constant %s: %w", name, errOtherBuild)
		}
		copy(variable.Value, constants[variable.Offset:])
	}
	return nil
}

// Loaded frees what only loading needs. After it no further program, and no constant, is available.
func (t *Twin) Loaded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.spec, t.types = &ebpf.CollectionSpec{}, nil
}

var errOtherBuild = errors.New("what runs is of another build of waggle than this command: " +
	"use the command that the agent runs, or start the agent anew")

// tagOf is the tag of a pinned program.
func (p pinDir) tagOf(name string) (string, error) {
	info, err := p.programInfo(name)
	if err != nil {
		return "", err
	}
	return info.Tag, nil
}

func (p pinDir) programInfo(name string) (*ebpf.ProgramInfo, error) {
	path := p.programPin(name)
	program, err := ebpf.LoadPinnedProgram(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open the pinned program %s: %w", path, err)
	}
	defer program.Close()
	info, err := program.Info()
	if err != nil {
		return nil, fmt.Errorf("ask for the program %s: %w", path, err)
	}
	return info, nil
}

// constantsOf is the program whose constants are read: all programs have the same, and this one is always loaded.
const constantsOf = "waggle_ingress"

// constants returns those of the running programs, as they lie in memory.
func (v *View) constants() ([]byte, error) {
	info, err := v.pins.programInfo(constantsOf)
	if err != nil {
		return nil, err
	}
	ids, _ := info.MapIDs()
	for _, id := range ids {
		value, found, err := constantsIn(id)
		if err != nil || found {
			return value, err
		}
	}
	return nil, fmt.Errorf("the program %s has no constants", v.pins.programPin(constantsOf))
}

func constantsIn(id ebpf.MapID) (value []byte, found bool, err error) {
	m, err := ebpf.NewMapFromID(id)
	if errors.Is(err, unix.EPERM) {
		return nil, false, fmt.Errorf("missing privileges: CAP_SYS_ADMIN, to read the constants of the programs that run: run as root: %w", err)
	}
	if err != nil {
		return nil, false, fmt.Errorf("open the map with id %d: %w", id, err)
	}
	defer m.Close()
	info, err := m.Info()
	if err != nil || !strings.HasSuffix(info.Name, rodataMap) {
		return nil, false, err
	}
	value, err = m.LookupBytes(uint32(0))
	return value, true, err
}

// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/bench/probe"
	"github.com/waggle-lb/waggle/test/topo"
)

// hotKind is a set of cases that are measured over the same flows.
type hotKind int

const (
	kindExpress   hotKind = iota // established flows, and packets of no flow in the same tables
	kindLocal                    // established flows to a local backend
	kindFresh                    // new flows in tables with established ones; they end before the next ones come
	kindFull                     // the same, but none ends: the table is full, and each replaces another one
	kindDatagrams                // as kindFresh, of datagrams that keep their source; and datagrams of no flow
)

// hotCase is a kind of packet that is run through one program.
type hotCase struct {
	name     string
	kind     hotKind
	hook     bpf.Hook
	flows    flows
	verdict  bpf.Verdict   // the result of each packet
	events   []bpf.Verdict // counted with each packet
	every    bool          // each packet is of a flow that never existed before
	full     bool          // these flows do not end
	services uint32        // if not 0, a power of two: packets go to so many services in turn
	many     bool          // measured with many flows too
	limit    string        // the program that does the least
	parse    bool          // measured beside a bare parser too
	beyond   bool          // with one flow, measured beyond its limit too
}

// hotFamily is the measurement of one address family.
type hotFamily struct {
	name  string
	table string // the suffix of its maps and programs
	cases []hotCase
	// The records of established flows, of both directions.
	express, local []flows
}

// established returns the records that exist while cases of a kind are measured.
func (f hotFamily) established(kind hotKind) []flows {
	if kind == kindLocal {
		return f.local
	}
	return f.express
}

// find returns a case by its name.
func (f hotFamily) find(name string) hotCase {
	at := slices.IndexFunc(f.cases, func(c hotCase) bool { return c.name == name })
	return f.cases[at]
}

// hotSizes are the numbers of flows that packets are spread over.
type hotSizes struct {
	few  []uint32 // all at once; new flows are measured beside the last
	many []uint32 // in rising order, each by itself
}

// hotStep is measured at once, over tables of its own: they are made for its number of flows, and
// half full with them.
type hotStep struct {
	kind  hotKind
	sizes []uint32 // the numbers of flows that packets are spread over, in rising order; the last is the number of records
	many  bool     // only the cases with many flows
	fresh uint32   // room for so many new flows beside them
	bare  probe.Room
}

func (s hotSizes) steps(fresh uint32) []hotStep {
	bare := probe.Room{Hash: 4 * last(slices.Concat(s.few, s.many)), LRU: 2 * last(s.few)}
	beside := s.few[len(s.few)-1:]
	steps := []hotStep{{kind: kindExpress, sizes: s.few, bare: bare}, {kind: kindLocal, sizes: s.few, bare: bare},
		{kind: kindFresh, sizes: beside, fresh: fresh, bare: bare}, {kind: kindFull, sizes: beside, fresh: fresh, bare: bare}}
	for _, size := range s.many {
		steps = append(steps, hotStep{kind: kindExpress, sizes: []uint32{size}, many: true, bare: bare})
	}
	return steps
}

func (s hotStep) room() flowRoom {
	flows := last(s.sizes) + s.fresh
	return flowRoom{flows4: flows, flows6: flows}
}

func (s hotStep) has(c hotCase) bool { return c.kind == s.kind && (c.many || !s.many) }

func last(sizes []uint32) uint32 { return sizes[len(sizes)-1] }

// hotRig is a datapath, the programs that drive it, and the node that they run in.
type hotRig struct {
	options
	filler
	node     *topo.Node
	maps     provider
	programs map[string]*ebpf.Program
	// Other programs on the same maps. Empty until loadTwin or loadBeside.
	twin map[string]*ebpf.Program
}

// hotPrograms are the measured programs of waggle.
var hotPrograms = map[bpf.Hook]string{bpf.HookXDP: "waggle_xdp", bpf.HookTCIngress: "waggle_ingress",
	bpf.HookTCPod: "waggle_pod", bpf.HookTCEgress: "waggle_egress"}

func measureHot(o options) (results []Result, err error) {
	sizes := hotSizes{few: []uint32{1, 1 << 10, 1 << 16}, many: []uint32{1 << 18, 1 << 20}}
	if o.quick {
		sizes = hotSizes{few: []uint32{1, 1 << 10}}
	}
	network, err := topo.New(topo.ForXDP())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, network.Close()) }()
	r := newRunner(o)
	for _, step := range sizes.steps(r.freshFlows()) {
		got, err := measureStep(o, network, step)
		if err != nil {
			return nil, err
		}
		results = append(results, got...)
	}
	return results, nil
}

func measureStep(o options, network *topo.Network, step hotStep) (results []Result, err error) {
	rig, err := newHotRig(o, network, step.room(), step.bare, nil)
	if err != nil {
		return nil, err
	}
	defer rig.close()
	err = rig.node.Do(func() error {
		if err := errors.Join(rig.publish(), rig.establish(step)); err != nil {
			return err
		}
		for _, f := range rig.families() {
			got, err := rig.measureFamily(f, step)
			if err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
			results = append(results, got...)
		}
		return nil
	})
	return results, err
}

// newHotRig makes a datapath with so much room for flows. others are the sizes of other maps; those
// that aren't named keep their own.
func newHotRig(o options, network *topo.Network, room flowRoom, bare probe.Room, others map[string]uint32) (*hotRig, error) {
	rig := &hotRig{options: o, node: network.Nodes[0], filler: filler{runner: newRunner(o)}}
	link, err := rig.node.Link("eth0")
	if err != nil {
		return nil, err
	}
	rig.to, rig.ifindex = link.Attrs().HardwareAddr, uint32(link.Attrs().Index)
	if rig.from, err = network.Nodes[1].MAC("eth0"); err != nil {
		return nil, err
	}
	if err := fixNeighbour(rig.node, network.Nodes[1]); err != nil {
		return nil, err
	}
	return rig, rig.node.Do(func() error { return rig.load(room, bare, others) })
}

func (r *hotRig) close() {
	for _, programs := range []map[string]*ebpf.Program{r.programs, r.twin} {
		for _, p := range programs {
			p.Close()
		}
	}
	if r.Collection != nil {
		r.Collection.Close()
	}
	for _, m := range r.maps {
		m.Close()
	}
}

// load makes the datapath with tables of the size of the measurement. No second passes for it: each
// packet then does the same.
func (r *hotRig) load(room flowRoom, bare probe.Room, others map[string]uint32) error {
	spec, err := hotSpec(bpf.Spec())
	if err != nil {
		return err
	}
	sizes := room.sizes()
	stdmaps.Copy(sizes, others)
	for name, size := range sizes {
		spec.Maps[name].MaxEntries = size
	}
	if err := bpf.Fit(spec); err != nil {
		return err
	}
	datapath, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	r.maps, r.programs = datapath.Maps, datapath.Programs
	if r.Collection, err = probe.Load(datapath.Maps, bare); err != nil {
		return err
	}
	if err := r.configure(); err != nil {
		return err
	}
	var hop bpf.Hop
	hop.Ifindex = r.ifindex
	copy(hop.Dmac[:], r.from)
	copy(hop.Smac[:], r.to)
	r.hop, err = makeHop(r.maps, hop)
	return err
}

// hotSpec returns the measured programs of a datapath, and a second so long that none passes.
func hotSpec(spec *ebpf.CollectionSpec, err error) (*ebpf.CollectionSpec, error) {
	if err != nil {
		return nil, err
	}
	for _, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
	}
	stdmaps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return !slices.Contains(slices.Collect(stdmaps.Values(hotPrograms)), name)
	})
	return spec, spec.Variables["hz"].Set(uint32(1_000_000))
}

// loadTwin loads the programs once more, on the same maps, with another value of a constant.
func (r *hotRig) loadTwin(constant string, value bool) error {
	spec, err := hotSpec(bpf.Spec())
	if err != nil {
		return err
	}
	return errors.Join(spec.Variables[constant].Set(value), r.loadBeside(spec))
}

// loadBeside loads other programs on the same maps, but for the memory that programs use while they run: an object may
// have a layout of its own for it.
func (r *hotRig) loadBeside(spec *ebpf.CollectionSpec) error {
	shared := map[string]*ebpf.Map{}
	for name, m := range spec.Maps {
		if live, ok := r.maps[name]; ok && name != "scratch_map" && !strings.HasPrefix(name, ".") {
			m.MaxEntries = live.MaxEntries()
			shared[name] = live
		}
	}
	if err := bpf.Fit(spec); err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: shared})
	if err != nil {
		return err
	}
	r.twin, c.Programs = c.Programs, nil
	c.Close()
	return nil
}

// configure writes the device and the cluster IPs to the datapath's maps.
func (r *hotRig) configure() error {
	if err := maps.BumpGeneration(r.maps); err != nil {
		return err
	}
	device := maps.Device{TCTransmits: true, XDPTransmits: true, EgressHook: true, Addr4: r.node.IP4, Addr6: r.node.IP6}
	own := maps.Device{Addr4: r.node.IP4, Addr6: r.node.IP6}
	if err := errors.Join(maps.NewDevices(r.maps).Put(int(r.ifindex), device), maps.NewDevices(r.maps).Put(0, own),
		maps.NewNodeAddrs(r.maps).Set(map[netip.Addr]maps.NodeAddr{
			r.node.IP4: {Local: true, NodePorts: true}, r.node.IP6: {Local: true, NodePorts: true},
		})); err != nil {
		return err
	}
	cluster := maps.NewClusterAddrs(r.maps)
	return errors.Join(cluster.Put(netip.MustParseAddr("10.96.0.1")), cluster.Put(netip.MustParseAddr("fd00:10:96::1")),
		cluster.SetRanges([]maps.ClusterRange{{Prefix: netip.MustParsePrefix("10.96.0.0/12")}, {Prefix: netip.MustParsePrefix("fd00:10:96::/108")}}))
}

const (
	establishedPort = 30080
	newPort         = 30082 // TCP, to backends on another node
	newLocalPort    = 30083 // UDP, to a local backend
	newBackends     = 188   // beyond those whose ports established flows have all taken
)

// hotService is a NodePort for new flows. Its backends have successive addresses.
type hotService struct {
	first    netip.Addr
	backends uint32
	local    bool
	proto    uint8
	port     uint16
}

func hotServices() (all []hotService) {
	for _, first := range []string{"10.244.1.66", "fd00:10:244:1::42"} {
		all = append(all, hotService{netip.MustParseAddr(first), newBackends, false, unix.IPPROTO_TCP, newPort})
	}
	for _, local := range hotLocal {
		all = append(all, hotService{netip.MustParseAddr(local), 1, true, unix.IPPROTO_UDP, newLocalPort})
	}
	return all
}

// publish makes the services for new flows.
func (r *hotRig) publish() error {
	backends, err := maps.NewBackends(r.maps)
	if err != nil {
		return err
	}
	for known := range must(backends.All()) {
		if err := backends.Reserve(known); err != nil {
			return err
		}
	}
	slots, err := maps.NewSlots(r.maps)
	if err != nil {
		return err
	}
	for i, s := range hotServices() {
		if err := s.publish(r.maps, uint32(i+1), backends, slots); err != nil {
			return err
		}
	}
	return nil
}

func (s hotService) publish(p maps.Provider, id uint32, backends *maps.Backends, slots *maps.Slots) error {
	if err := maps.NewStats(p).AddService(id); err != nil {
		return err
	}
	var ids []uint32
	for i := range s.backends {
		b := maps.Backend{Addr: further(s.first, i), Port: 8080, Proto: s.proto, Service: id, InCluster: true, Local: s.local}
		added, err := backends.Add(b, epoch)
		if err != nil {
			return err
		}
		ids = append(ids, added)
	}
	block, err := slots.Publish(ids, epoch)
	if err != nil {
		return err
	}
	frontend := maps.Frontend{Addr: maps.FamilyOf(s.first).Any(), Port: s.port, Proto: s.proto}
	return maps.NewServices(p).Put(frontend, maps.Service{ID: id, Kind: maps.NodePort, External: block, Internal: block})
}

// hotFlows are the flows of one family.
type hotFlows struct {
	forward, reply    flows // by a backend on another node
	local, localReply flows // by a local backend
	fresh, foreign    flows
	freshLocal        flows // of datagrams, by a local backend
	datagrams         flows // as foreign
}

func newHotFlows(node, client, backend, local, stranger netip.Addr) (f hotFlows) {
	at := netip.AddrPortFrom
	f.forward = flows{proto: unix.IPPROTO_TCP, flags: bpf.FlowExpress,
		src: end{at(client, 1024), true, true}, dst: end{at(node, establishedPort), false, false},
		toSrc: end{at(node, 49152), false, true}, toDst: end{at(backend, 8080), true, false}}
	f.reply = f.forward.mirror(bpf.ZoneOutside)
	f.reply.flags = bpf.FlowReply | bpf.FlowExpress
	f.local = flows{proto: unix.IPPROTO_TCP, flags: uint16(bpf.ZoneLeaving) * bpf.FlowMirrorZone,
		src: end{at(further(client, 1<<16), 1024), true, true}, dst: f.forward.dst, toDst: end{at(local, 8080), false, false}}
	f.local.toSrc = f.local.src
	f.localReply = f.local.mirror(bpf.ZoneLeaving)
	f.localReply.flags = bpf.FlowReply
	f.fresh = flows{proto: unix.IPPROTO_TCP, src: end{at(further(client, 1<<18), 1024), true, true}, dst: end{at(node, newPort), false, false}}
	f.freshLocal = flows{proto: unix.IPPROTO_UDP, src: f.fresh.src, dst: end{at(node, newLocalPort), false, false}}
	f.foreign = flows{proto: unix.IPPROTO_TCP, src: end{at(further(client, 2<<16), 1024), true, true}, dst: end{at(stranger, 443), false, false}}
	f.datagrams = f.foreign
	f.datagrams.proto = unix.IPPROTO_UDP
	return f
}

// family returns the packets of one address family.
func (f hotFlows) family(name, table string) hotFamily {
	opened := []bpf.Verdict{bpf.VerdictFlowOpened}
	cases := []hotCase{
		{name: "xdp established", hook: bpf.HookXDP, flows: f.forward, verdict: bpf.VerdictExpress, many: true, limit: "lookup", beyond: true},
		{name: "xdp reply", hook: bpf.HookXDP, flows: f.reply, verdict: bpf.VerdictExpress, many: true, limit: "lookup"},
		{name: "xdp local backend", kind: kindLocal, hook: bpf.HookXDP, flows: f.local, verdict: bpf.VerdictLeftToTC, limit: "lookup"},
		{name: "xdp new flow", kind: kindFresh, hook: bpf.HookXDP, flows: f.fresh, verdict: bpf.VerdictExpress, events: opened, every: true, limit: "insert"},
		{name: "xdp new flow, full table", kind: kindFull, hook: bpf.HookXDP, flows: f.fresh, verdict: bpf.VerdictExpress, events: opened, every: true, full: true, limit: "insert"},
		{name: "xdp new flow of datagrams to a local backend", kind: kindDatagrams, hook: bpf.HookXDP, flows: f.freshLocal, verdict: bpf.VerdictLeftToTC, events: opened, every: true},
		{name: "xdp not ours", hook: bpf.HookXDP, flows: f.foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
		{name: "tc established", hook: bpf.HookTCIngress, flows: f.forward, verdict: bpf.VerdictExpress, many: true, limit: "lookup"},
		{name: "tc reply", hook: bpf.HookTCIngress, flows: f.reply, verdict: bpf.VerdictExpress, many: true, limit: "lookup"},
		{name: "tc local backend", kind: kindLocal, hook: bpf.HookTCIngress, flows: f.local, verdict: bpf.VerdictStack, limit: "lookup"},
		{name: "tc new flow", kind: kindFresh, hook: bpf.HookTCIngress, flows: f.fresh, verdict: bpf.VerdictExpress, events: opened, every: true, limit: "insert"},
		{name: "tc new flow, full table", kind: kindFull, hook: bpf.HookTCIngress, flows: f.fresh, verdict: bpf.VerdictExpress, events: opened, every: true, full: true, limit: "insert"},
		{name: "tc new flow of datagrams to a local backend", kind: kindDatagrams, hook: bpf.HookTCIngress, flows: f.freshLocal, verdict: bpf.VerdictStack, events: opened, every: true},
		{name: "tc not ours", hook: bpf.HookTCIngress, flows: f.foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
		{name: "tc not ours, datagrams", kind: kindDatagrams, hook: bpf.HookTCIngress, flows: f.datagrams, verdict: bpf.VerdictNotOurs},
		{name: "tc not ours, waggle_pod", hook: bpf.HookTCPod, flows: f.foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
		{name: "tc not ours, waggle_egress", hook: bpf.HookTCEgress, flows: f.foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
	}
	return hotFamily{name: name, table: table, cases: cases, express: []flows{f.forward, f.reply}, local: []flows{f.local, f.localReply}}
}

// hotLocal are the local backends of both families.
var hotLocal = []string{"10.244.0.5", "fd00:10:244::5"}

func (r *hotRig) families() []hotFamily {
	ip := netip.MustParseAddr
	return []hotFamily{
		newHotFlows(r.node.IP4, ip("10.100.0.0"), ip("10.244.1.2"), ip(hotLocal[0]), ip("10.9.9.9")).family("IPv4", "4"),
		newHotFlows(r.node.IP6, ip("fd00:c::a64:0"), ip("fd00:10:244:1::2"), ip(hotLocal[1]), ip("fd00:9::9")).family("IPv6", "6"),
	}
}

// establish makes the flows that exist while a step is measured.
func (r *hotRig) establish(step hotStep) error {
	count := last(step.sizes)
	err := placeAll(r.maps, func() error {
		for _, f := range r.families() {
			for _, record := range f.established(step.kind) {
				if err := r.fill(record, 0, count); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	return r.establishBare(count)
}

// establishBare puts the same keys into the table of the limits: those of both kinds, whichever is
// measured.
func (r *hotRig) establishBare(count uint32) error {
	for _, f := range r.families() {
		for _, record := range []flows{f.express[0], f.express[1], f.local[0]} {
			if err := r.fillBare(record, count); err != nil {
				return err
			}
		}
	}
	return nil
}

// setTarget sets the rewrite of the limits.
func (r *hotRig) setTarget(f flows) error {
	target := probe.Target{To: f.target(), Hop: bpf.Hop{Ifindex: r.ifindex}}
	copy(target.Hop.Dmac[:], r.from)
	copy(target.Hop.Smac[:], r.to)
	return r.Variables["target"].Set(&target)
}

// limitSubject is a bare program. Its insertions are new each time, like waggle's new flows.
func (r *hotRig) limitSubject(name string, program *ebpf.Program, c hotCase, size uint32) *subject {
	if c.every {
		return r.freshSubject(name, program, nil, c.flows, c.services)
	}
	return r.subject(name, bpf.HookXDP, program, c.flows, size)
}

// waggleSubject measures a program of waggle. It checks that the name describes what was measured.
func (r *hotRig) waggleSubject(name string, c hotCase, size uint32) *subject {
	return r.programSubject(name, r.programs[hotPrograms[c.hook]], c, size)
}

func (r *hotRig) programSubject(name string, program *ebpf.Program, c hotCase, size uint32) *subject {
	at, packets := r.newWalk(), r.packets
	if c.every && !c.full {
		packets = r.freshFlows()
	}
	return &subject{name: name, measure: func() (float64, error) {
		frame, err := c.flows.frame(r.from, r.to)
		if err != nil {
			return 0, err
		}
		d := at.on(c.flows.drive(frame, size))
		if c.every {
			if c.flows.proto == unix.IPPROTO_TCP {
				frame = syn(frame)
			}
			d = r.freshDrive(c.flows, frame, c.services)
		}
		before, err := counted(r.maps)
		if err != nil {
			return 0, err
		}
		ran, ns, err := r.run(c.hook, program, d, packets)
		if err != nil {
			return 0, err
		}
		at.next += ran
		after, err := counted(r.maps)
		if err != nil {
			return 0, err
		}
		for _, v := range append([]bpf.Verdict{c.verdict}, c.events...) {
			if got := after[c.hook][v] - before[c.hook][v]; got != uint64(ran) {
				return 0, fmt.Errorf("%d of %d packets counted as %s", got, ran, bpf.VerdictName(v))
			}
		}
		if c.every && !c.full {
			_, _, err = r.run(bpf.HookXDP, r.Programs["end"+c.flows.family()], d, ran)
		}
		return ns, err
	}}
}

// syn turns an acknowledgement into a packet that opens a connection. The checksum is wrong then,
// which costs nothing: it is changed, never verified.
func syn(frame []byte) []byte {
	flags := 14 + 20 + 13
	if frame[12] == 0x86 {
		flags += 20
	}
	frame[flags] = 0x02
	return frame
}

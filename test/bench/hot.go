// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	stdmaps "maps"
	"net/netip"
	"slices"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/bench/probe"
	"github.com/waggle-lb/waggle/test/topo"
)

// hotCase is a kind of packet that is run through one program.
type hotCase struct {
	name     string
	hook     bpf.Hook
	flows    flows
	verdict  bpf.Verdict   // that each packet must end in
	events   []bpf.Verdict // that must come with each
	every    bool          // each packet is of a flow that was never there before
	services uint32        // if not 0, a power of two: each packet is for another one of so many
	many     bool          // measured with many flows too
	limit    string        // the program that does the least
	parse    bool          // measured beside a bare parser too
	beyond   bool          // with one flow, measured beyond its limit too
}

// hotFamily is what is measured of one address family.
type hotFamily struct {
	name  string
	table string // of established flows
	cases []hotCase
}

// hotSizes are the numbers of flows that packets vary among.
type hotSizes struct {
	few  []uint32 // all at once; the last is what new flows are measured beside
	many []uint32 // in rising order, each by itself
}

// steps are the sizes that are measured at once, in rising order.
func (s hotSizes) steps() [][]uint32 {
	steps := [][]uint32{s.few}
	for _, size := range s.many {
		steps = append(steps, []uint32{size})
	}
	return steps
}

func last(sizes []uint32) uint32 { return sizes[len(sizes)-1] }

// hotRig is a datapath, the programs that drive it, and the node that they run in.
type hotRig struct {
	options
	runner
	node        *topo.Node
	maps        provider
	programs    map[string]*ebpf.Program
	template    bpf.Flow
	established uint32 // flows of each kind
}

// hotPrograms are those of waggle's that are measured.
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
	rig, err := newHotRig(o, network, sizes.room(), nil)
	if err != nil {
		return nil, err
	}
	defer rig.close()
	err = rig.node.Do(func() error {
		if err := rig.publish(); err != nil {
			return err
		}
		results, err = rig.measure(sizes)
		return err
	})
	return results, err
}

// room is that for all flows that are there at once.
func (s hotSizes) room() flowRoom {
	established := 4 * last(slices.Concat(s.few, s.many))
	return flowRoom{established4: established, established6: established, opened: 2 * last(s.few)}
}

// newHotRig makes a datapath with so much room for flows. Other maps have so many elements; those
// that aren't named have their own number.
func newHotRig(o options, network *topo.Network, room flowRoom, others map[string]uint32) (*hotRig, error) {
	rig := &hotRig{options: o, node: network.Nodes[0], runner: newRunner(o)}
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
	return rig, rig.node.Do(func() error { return rig.load(room, others) })
}

func (r *hotRig) close() {
	for _, p := range r.programs {
		p.Close()
	}
	if r.Collection != nil {
		r.Collection.Close()
	}
	for _, m := range r.maps {
		m.Close()
	}
}

// load makes the datapath with tables of the size of the measurement, and with a second so long
// that none passes: each packet then does the same.
func (r *hotRig) load(room flowRoom, others map[string]uint32) error {
	spec, err := bpf.Spec()
	if err != nil {
		return err
	}
	sizes := room.sizes()
	stdmaps.Copy(sizes, others)
	for name, m := range spec.Maps {
		m.Pinning = ebpf.PinNone
		if size := sizes[name]; size > 0 {
			m.MaxEntries = size
		}
	}
	if err := errors.Join(bpf.Fit(spec), spec.Variables["hz"].Set(uint32(1_000_000))); err != nil {
		return err
	}
	stdmaps.DeleteFunc(spec.Programs, func(name string, _ *ebpf.ProgramSpec) bool {
		return !slices.Contains(slices.Collect(stdmaps.Values(hotPrograms)), name)
	})
	datapath, err := ebpf.NewCollection(spec)
	if err != nil {
		return err
	}
	r.maps, r.programs = datapath.Maps, datapath.Programs
	if r.Collection, err = probe.Load(datapath.Maps, room.opened); err != nil {
		return err
	}
	if err := r.configure(); err != nil {
		return err
	}
	return r.makeTemplate()
}

// configure tells the datapath of its device, and what cluster IPs there are.
func (r *hotRig) configure() error {
	if err := maps.BumpEpoch(r.maps); err != nil {
		return err
	}
	device := maps.Device{Express: true, XDP: true, Egress: true, Addr4: r.node.IP4, Addr6: r.node.IP6}
	own := maps.Device{Addr4: r.node.IP4, Addr6: r.node.IP6}
	if err := errors.Join(maps.NewDevices(r.maps).Put(int(r.ifindex), device), maps.NewDevices(r.maps).Put(0, own),
		maps.NewNodeAddrs(r.maps).Set([]netip.Addr{r.node.IP4, r.node.IP6})); err != nil {
		return err
	}
	cluster := maps.NewClusterAddrs(r.maps)
	return errors.Join(cluster.Put(netip.MustParseAddr("10.96.0.1")), cluster.Put(netip.MustParseAddr("fd00:10:96::1")),
		cluster.SetRanges([]maps.ClusterRange{{Prefix: netip.MustParsePrefix("10.96.0.0/12")}, {Prefix: netip.MustParsePrefix("fd00:10:96::/108")}}))
}

// publish makes what new flows are opened by.
func (r *hotRig) publish() error {
	for _, base := range []string{"10.244.1.66", "fd00:10:244:1::42"} {
		if err := publishNodePort(r.maps, netip.MustParseAddr(base)); err != nil {
			return err
		}
	}
	return nil
}

// makeTemplate learns what a record holds besides its rewrite.
func (r *hotRig) makeTemplate() error {
	var state bpf.RuntimeState
	if err := r.maps.Map("runtime").Lookup(uint32(0), &state); err != nil {
		return err
	}
	clock, err := readClock(r.Collection)
	if err != nil {
		return err
	}
	r.template = bpf.Flow{LastSeen: clock}
	r.template.Hop.Epoch, r.template.Hop.Ifindex = state.Epoch, r.ifindex
	copy(r.template.Hop.Dmac[:], r.from)
	copy(r.template.Hop.Smac[:], r.to)
	return nil
}

const (
	establishedPort = 30080
	newPort         = 30082
	newBackends     = 188 // beyond those that established flows have taken all ports of
)

// publishNodePort makes a NodePort whose backends are on another node.
func publishNodePort(p maps.Provider, first netip.Addr) error {
	backends, err := maps.NewBackends(p)
	if err != nil {
		return err
	}
	id := uint32(maps.FamilyOf(first)) // any number of its own
	for known := range must(backends.All()) {
		if err := backends.Reserve(known); err != nil {
			return err
		}
	}
	var ids []uint32
	for i := range uint32(newBackends) {
		added, err := backends.Add(maps.Backend{Addr: further(first, i), Port: 8080, Proto: unix.IPPROTO_TCP, Service: id, InCluster: true}, epoch)
		if err != nil {
			return err
		}
		ids = append(ids, added)
	}
	slots, err := maps.NewSlots(p)
	if err != nil {
		return err
	}
	if maps.FamilyOf(first) == maps.IPv6 { // the first family has taken the first block
		if err := slots.Reserve(maps.Block{First: 0, Count: 1024}); err != nil {
			return err
		}
	}
	block, err := slots.Publish(ids, epoch)
	if err != nil {
		return err
	}
	frontend := maps.Frontend{Addr: maps.FamilyOf(first).Any(), Port: newPort, Proto: unix.IPPROTO_TCP}
	return maps.NewServices(p).Put(frontend, maps.Service{ID: id, Kind: maps.NodePort, External: block, Internal: block})
}

// hotCases are the packets that a node meets, of one family.
func hotCases(node netip.Addr, client, backend, local, stranger netip.Addr) []hotCase {
	at := netip.AddrPortFrom
	forward := flows{proto: unix.IPPROTO_TCP, flags: bpf.FlowExpress | bpf.FlowXDP | bpf.FlowDirect,
		src: end{at(client, 1024), true, true}, dst: end{at(node, establishedPort), false, false},
		toSrc: end{at(node, 49152), false, true}, toDst: end{at(backend, 8080), true, false}}
	reply := flows{proto: unix.IPPROTO_TCP, flags: bpf.FlowReply | bpf.FlowExpress | bpf.FlowXDP | bpf.FlowDirect,
		src: forward.toDst, dst: forward.toSrc, toSrc: forward.dst, toDst: forward.src}
	stack := flows{proto: unix.IPPROTO_TCP, flags: bpf.FlowMirrorEgress,
		src: end{at(further(client, 1<<16), 1024), true, true}, dst: forward.dst, toDst: end{at(local, 8080), false, false}}
	stack.toSrc = stack.src
	fresh := flows{proto: unix.IPPROTO_TCP, src: end{at(further(client, 1<<18), 1024), true, true}, dst: end{at(node, newPort), false, false}}
	foreign := flows{proto: unix.IPPROTO_TCP, src: end{at(further(client, 2<<16), 1024), true, true}, dst: end{at(stranger, 443), false, false}}
	opened := []bpf.Verdict{bpf.VerdictFlowOpened}
	return []hotCase{
		{name: "xdp established", hook: bpf.HookXDP, flows: forward, verdict: bpf.VerdictExpress, many: true, limit: "lookup", beyond: true},
		{name: "xdp reply", hook: bpf.HookXDP, flows: reply, verdict: bpf.VerdictExpress, many: true, limit: "lookup"},
		{name: "xdp local backend", hook: bpf.HookXDP, flows: stack, verdict: bpf.VerdictLeftToTC, limit: "lookup"},
		{name: "xdp new flow", hook: bpf.HookXDP, flows: fresh, verdict: bpf.VerdictExpress, events: opened, every: true, limit: "insert"},
		{name: "xdp not ours", hook: bpf.HookXDP, flows: foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
		{name: "tc established", hook: bpf.HookTCIngress, flows: forward, verdict: bpf.VerdictExpress, many: true, limit: "lookup"},
		{name: "tc reply", hook: bpf.HookTCIngress, flows: reply, verdict: bpf.VerdictExpress, many: true, limit: "lookup"},
		{name: "tc local backend", hook: bpf.HookTCIngress, flows: stack, verdict: bpf.VerdictStack, limit: "lookup"},
		{name: "tc new flow", hook: bpf.HookTCIngress, flows: fresh, verdict: bpf.VerdictExpress, events: opened, every: true, limit: "insert"},
		{name: "tc not ours", hook: bpf.HookTCIngress, flows: foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
		{name: "tc not ours, waggle_pod", hook: bpf.HookTCPod, flows: foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
		{name: "tc not ours, waggle_egress", hook: bpf.HookTCEgress, flows: foreign, verdict: bpf.VerdictNotOurs, many: true, limit: "miss", parse: true},
	}
}

func (r *hotRig) families() []hotFamily {
	ip := netip.MustParseAddr
	return []hotFamily{
		{"IPv4", "4", hotCases(r.node.IP4, ip("10.100.0.0"), ip("10.244.1.2"), ip("10.244.0.5"), ip("10.9.9.9"))},
		{"IPv6", "6", hotCases(r.node.IP6, ip("fd00:c::a64:0"), ip("fd00:10:244:1::2"), ip("fd00:10:244::5"), ip("fd00:9::9"))},
	}
}

func (r *hotRig) measure(sizes hotSizes) (results []Result, err error) {
	for i, step := range sizes.steps() {
		if err := r.establish(last(step)); err != nil {
			return nil, err
		}
		for _, f := range r.families() {
			got, err := r.measureFamily(f, step, func(c hotCase) bool { return i == 0 || c.many })
			if err != nil {
				return nil, fmt.Errorf("%s: %w", f.name, err)
			}
			results = append(results, got...)
		}
	}
	return results, nil
}

// establish adds flows of each kind until there are so many.
func (r *hotRig) establish(count uint32) error {
	for _, f := range r.families() {
		table := newFlowTable(r.maps, f.table, r.template)
		for _, c := range f.cases[:3] { // by XDP; tc's are the same
			if err := table.fill(c.flows, r.established, count); err != nil {
				return err
			}
		}
	}
	r.established = count
	return nil
}

// setRewrite tells the limit what it rewrites to.
func (r *hotRig) setRewrite(f flows) error {
	if f.src.Addr().Is4() {
		return r.Variables["rewrite4"].Set(f.record4(0, r.template))
	}
	return r.Variables["rewrite6"].Set(f.record6(0, r.template))
}

// limitSubject is a bare program; what it inserts is new each time, as waggle's new flows are.
func (r *hotRig) limitSubject(name string, program *ebpf.Program, c hotCase, size uint32) *subject {
	if c.every {
		return r.freshSubject(name, program, c.flows, c.services)
	}
	return r.subject(name, bpf.HookXDP, program, c.flows, size)
}

// waggleSubject measures a program of waggle's, and makes sure that what was measured is what the
// name says.
func (r *hotRig) waggleSubject(name string, c hotCase, size uint32) *subject {
	program := r.programs[hotPrograms[c.hook]]
	at := r.newWalk()
	return &subject{name: name, measure: func() (float64, error) {
		frame, err := c.flows.frame(r.from, r.to)
		if err != nil {
			return 0, err
		}
		d := at.on(c.flows.drive(frame, size))
		if c.every {
			d = r.freshDrive(c.flows, syn(frame), c.services)
		}
		before, err := counted(r.maps)
		if err != nil {
			return 0, err
		}
		ran, ns, err := r.run(c.hook, program, d, r.packets)
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
		return ns, nil
	}}
}

// syn turns an acknowledgement into what opens a connection. The checksum is wrong then, which
// costs nothing: it is changed, never verified.
func syn(frame []byte) []byte {
	flags := 14 + 20 + 13
	if frame[12] == 0x86 {
		flags += 20
	}
	frame[flags] = 0x02
	return frame
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// Action is what becomes of a packet after a program.
type Action int

// What programs can have done with a packet: leave it to what comes next, drop it, send it out by
// another device, or by the one that it came in by.
const (
	Pass Action = iota
	Drop
	Redirect
	Back
)

func (a Action) String() string { return [...]string{"pass", "drop", "redirect", "back"}[a] }

// Result is what a hook does with a packet.
type Result struct {
	Action  Action
	Verdict bpf.Verdict
	Frame   []byte // as it goes on; meaningless if it doesn't
}

// tables are those of one family.
type tables struct{ pending, confirmed *Table }

type fragmentKey struct {
	Src, Dst netip.Addr
	Proto    uint8
	Egress   bool
	ID       uint32
}

type fragmentPorts struct {
	src, dst uint16
	seen     int
}

// FragmentTime is for how long the later fragments of a packet are expected, in seconds.
const FragmentTime = 30

// Node is a node that runs the datapath: what it is told, and what it remembers.
type Node struct {
	*Config
	Clock    int // seconds
	Affinity map[AffinityKey]Affinity
	Counts   map[bpf.Hook]map[bpf.Verdict]int
	// Unsure: a drop's reason depends on a choice that nobody can see.
	Unsure bool

	byFamily  [2]tables
	fragments map[fragmentKey]fragmentPorts
	choices   Choices
	hook      bpf.Hook
	device    *Device
	failure   error
}

// NewNode returns a node that remembers nothing.
func NewNode(c *Config, choices Choices) *Node {
	n := &Node{
		Config: c, choices: choices,
		Affinity:  make(map[AffinityKey]Affinity),
		Counts:    make(map[bpf.Hook]map[bpf.Verdict]int),
		fragments: make(map[fragmentKey]fragmentPorts),
	}
	for i := range n.byFamily {
		n.byFamily[i] = tables{newTable(0), newTable(c.FlowsMax)}
	}
	for h := range bpf.HookCount {
		n.Counts[h] = make(map[bpf.Verdict]int)
	}
	return n
}

func (n *Node) tables(t Tuple) tables { return n.family(t.Src.Addr().Is6()) }

func (n *Node) family(v6 bool) tables {
	if v6 {
		return n.byFamily[1]
	}
	return n.byFamily[0]
}

// Table gives one of the tables of flows.
func (n *Node) Table(v6, confirmed bool) *Table {
	if t := n.family(v6); confirmed {
		return t.confirmed
	} else {
		return t.pending
	}
}

// Find returns the record of a tuple, wherever it is, alive or not.
func (n *Node) Find(t Tuple) *Record {
	if r := n.tables(t).confirmed.get(t); r != nil {
		return r
	}
	return n.tables(t).pending.get(t)
}

// Dead says whether a record counts as absent.
func (n *Node) Dead(v6, confirmed bool, t Tuple, r *Record) bool {
	return n.stale(r, t.Proto) && n.dead(n.Table(v6, confirmed), t, r)
}

// Expire forgets what is dead in the table of confirmed flows.
func (n *Node) Expire() {
	for i := range n.byFamily {
		table := n.byFamily[i].confirmed
		// a record that is dead stays so without its mirror, and one that lives has it alive
		for t, r := range table.Records {
			if n.dead(table, t, r) {
				table.remove(t)
			}
		}
	}
}

func (n *Node) fail(format string, args ...any) {
	if n.failure == nil {
		n.failure = fmt.Errorf(format, args...)
	}
}

func (n *Node) event(v bpf.Verdict) { n.Counts[n.hook][v]++ }

// Process tells what a hook does with a frame that comes in, or leaves, by a device. The error
// says what the programs have chosen wrongly.
func (n *Node) Process(hook bpf.Hook, device int, frame []byte) (Result, error) {
	n.hook, n.device, n.failure = hook, n.Devices[device], nil
	r := n.process(frame)
	n.event(r.Verdict)
	if r.Verdict >= bpf.VerdictDropNoLocalEndpoint && r.Verdict <= bpf.VerdictDropError {
		r.Action = Drop
	}
	return r, n.failure
}

func (n *Node) process(frame []byte) Result {
	if n.hook == bpf.HookTCIngress && n.otherHost(frame) {
		return Result{Verdict: bpf.VerdictNotOurs, Frame: frame}
	}
	var v6 bool
	switch binary.BigEndian.Uint16(frame[12:]) {
	case typeIPv4:
	case typeIPv6:
		v6 = true
	case 0x8100, 0x88a8:
		if n.hook == bpf.HookXDP {
			return Result{Verdict: bpf.VerdictVlan, Frame: frame}
		}
		fallthrough
	default:
		return Result{Verdict: bpf.VerdictNotIP, Frame: frame}
	}
	p, how := read(frame, v6)
	p.tuple.Egress = n.hook == bpf.HookTCEgress
	switch n.hook {
	case bpf.HookXDP:
		return n.xdp(&p, how)
	case bpf.HookTCEgress:
		return n.egress(&p, how)
	}
	return n.ingress(&p, how)
}

// otherHost: a frame that a switch has flooded to us.
func (n *Node) otherHost(frame []byte) bool {
	return frame[0]&1 == 0 && [6]byte(frame[:6]) != n.device.MAC
}

func left(v bpf.Verdict, p *packet) Result { return Result{Verdict: v, Frame: p.frame} }

var unread = map[reading]bpf.Verdict{
	otherProtocol: bpf.VerdictNotOurs, unreadable: bpf.VerdictUnparsed, isFragment: bpf.VerdictFragment,
}

// found is a record to apply, and the table that it stands in.
type found struct {
	*Record
	table *Table
}

// flow finds or makes the record of a packet that enters the node. What can't be in the table of
// new flows is not looked for there.
func (n *Node) flow(p *packet) (found, bpf.Verdict) {
	tables, t := n.tables(p.tuple), p.tuple
	if r := n.find(tables.confirmed, t, p.flags); r != nil {
		return found{r, tables.confirmed}, bpf.VerdictCount
	}
	policy := n.frontend(t.Dst, t.Proto)
	answer := t.Dst.Port() >= n.SNATMin && t.Dst.Port() <= n.SNATMax
	if policy != nil || answer {
		if r := n.find(tables.pending, t, p.flags); r != nil && n.repair(t, r) {
			return found{r, tables.pending}, bpf.VerdictCount
		}
	}
	if policy == nil {
		return found{}, bpf.VerdictNotOurs
	}
	if v := n.open(p, policy, n.hook == bpf.HookTCPod); v != bpf.VerdictFlowOpened {
		return found{}, v
	}
	n.event(bpf.VerdictFlowOpened)
	return found{tables.pending.get(t), tables.pending}, bpf.VerdictCount
}

// xdp transmits what it can, and leaves the rest to tc.
func (n *Node) xdp(p *packet, how reading) Result {
	if how != understood {
		return left(unread[how], p)
	}
	f, v := n.flow(p)
	switch {
	case v == bpf.VerdictRefused:
		return left(bpf.VerdictLeftToTC, p)
	case v != bpf.VerdictCount:
		return left(v, p)
	case !f.is(bpf.FlowExpress):
		return left(bpf.VerdictLeftToTC, p)
	}
	if !n.nextHop(f.Record, p.tuple) || f.Hop.Epoch == 0 || !f.is(bpf.FlowXDP) || n.quiet(f.Record) ||
		tooBig(f.Record, p) {
		return left(bpf.VerdictLeftToTC, p)
	}
	if p.ttl <= 1 {
		return left(bpf.VerdictDropTTL, p)
	}
	to, hop := f.to(p.tuple), f.Hop
	n.follow(f, p)
	out := p.rewritten(to.Src, to.Dst)
	p.hopDown(out)
	hop.address(out)
	action := Redirect
	if hop.Device == n.device.Index {
		action = Back
	}
	return Result{action, bpf.VerdictExpress, out}
}

// quiet tells whether nothing has been heard of a flow for a while. One packet of such is left to
// the kernel, so that it hears that the next hop is in use.
func (n *Node) quiet(r *Record) bool { return n.Clock > r.Seen }

func (h *Hop) address(frame []byte) {
	copy(frame, h.DMAC[:])
	copy(frame[6:], h.SMAC[:])
}

func tooBig(r *Record, p *packet) bool { return r.Hop.MTU > 0 && p.length > r.Hop.MTU }

// nextHop asks where a record's packets go if something has changed since it was asked. False:
// nowhere. While the neighbour is not resolved it is asked again each time.
func (n *Node) nextHop(r *Record, t Tuple) bool {
	if r.Hop.Epoch == n.Epoch {
		return true
	}
	r.Hop.Epoch = 0
	route := n.Route(r.Dst.Addr())
	if route.Device == 0 {
		return false
	}
	r.Hop.Device, r.Hop.MTU = route.Device, 0
	if !route.Resolved {
		return true
	}
	device := n.Devices[route.Device]
	r.Hop = Hop{n.Epoch, route.Device, route.MAC, device.MAC, route.MTU}
	r.Flags &^= bpf.FlowXDP | bpf.FlowDirect
	if device.XDP {
		r.Flags |= bpf.FlowXDP
	}
	if device.Express {
		r.Flags |= bpf.FlowDirect
	}
	return true
}

// complete finds out the ports of a fragment.
func (n *Node) complete(p *packet) reading {
	if !p.readPart() {
		return unreadable
	}
	if p.proto() != TCP && p.proto() != UDP && p.proto() != SCTP {
		return isFragment
	}
	if p.part == first {
		return p.readFirst()
	}
	ports, ok := n.fragments[p.fragmentKey()]
	if !ok || n.Clock-ports.seen >= FragmentTime {
		return isFragment
	}
	p.tuple = p.tuple.withPorts(ports.src, ports.dst)
	return understood
}

func (p *packet) fragmentKey() fragmentKey {
	return fragmentKey{p.tuple.Src.Addr(), p.tuple.Dst.Addr(), p.proto(), p.tuple.Egress, p.id}
}

func (n *Node) noteFragment(p *packet) {
	if p.part == first {
		n.fragments[p.fragmentKey()] = fragmentPorts{p.tuple.Src.Port(), p.tuple.Dst.Port(), n.Clock}
	}
}

// readMore: tc reads fragments, too.
func (n *Node) readMore(p *packet, how reading) reading {
	if how == isFragment {
		return n.complete(p)
	}
	return how
}

// ingress is tc where packets enter the node, from outside or from a pod.
func (n *Node) ingress(p *packet, how reading) Result {
	how = n.readMore(p, how)
	if how == isFragment || how == unreadable {
		return left(unread[how], p)
	}
	if how == otherProtocol {
		if r, ours := n.icmpError(p); ours {
			return r
		}
		return n.clusterIP(p)
	}
	f, v := n.flow(p)
	switch v {
	case bpf.VerdictNotOurs:
		return n.clusterIP(p)
	case bpf.VerdictRefused:
		return n.refuse(p)
	case bpf.VerdictCount:
	default:
		return left(v, p)
	}
	n.noteFragment(p)
	if f.is(bpf.FlowExpress) {
		return n.transmit(p, f)
	}
	to := f.to(p.tuple)
	n.follow(f, p)
	src := netip.AddrPortFrom(p.tuple.Src.Addr(), to.Src.Port())
	return Result{Pass, bpf.VerdictStack, p.rewritten(src, to.Dst)}
}

// transmit is the express path in tc.
func (n *Node) transmit(p *packet, f found) Result {
	if !n.nextHop(f.Record, p.tuple) {
		return left(bpf.VerdictDropNoRoute, p)
	}
	if p.ttl <= 1 {
		return left(bpf.VerdictDropTTL, p)
	}
	if tooBig(f.Record, p) {
		return n.sayTooBig(p, f.Hop.MTU)
	}
	to, hop := f.to(p.tuple), f.Hop
	direct := hop.Epoch != 0 && f.is(bpf.FlowDirect) && !n.quiet(f.Record)
	n.follow(f, p)
	out := p.rewritten(to.Src, to.Dst)
	p.hopDown(out)
	if direct {
		hop.address(out)
	}
	return Result{Redirect, bpf.VerdictExpress, out}
}

// egress is tc where packets leave the node: the source is translated.
func (n *Node) egress(p *packet, how reading) Result {
	how = n.readMore(p, how)
	if how == otherProtocol {
		if r, ours := n.icmpError(p); ours {
			return r
		}
	}
	if how != understood {
		return left(unread[how], p)
	}
	tables := n.tables(p.tuple)
	f := found{n.find(tables.confirmed, p.tuple, p.flags), tables.confirmed}
	if f.Record == nil {
		f = found{n.find(tables.pending, p.tuple, p.flags), tables.pending}
	}
	if f.Record == nil {
		return left(bpf.VerdictNotOurs, p)
	}
	n.noteFragment(p)
	to := f.to(p.tuple)
	n.follow(f, p)
	dst := netip.AddrPortFrom(p.tuple.Dst.Addr(), to.Dst.Port())
	return Result{Pass, bpf.VerdictSource, p.rewritten(to.Src, dst)}
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"fmt"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// Action is a program's decision about a packet.
type Action int

// The actions: leave the packet to what comes next, drop it, send it out by another device, or by
// the one that it came in by.
const (
	Pass Action = iota
	Drop
	Redirect
	Back
)

func (a Action) String() string { return [...]string{"pass", "drop", "redirect", "back"}[a] }

// Result is a hook's decision about a packet.
type Result struct {
	Action  Action
	Verdict bpf.Verdict
	Frame   []byte // as it goes on; meaningless if it doesn't
}

type fragmentKey struct {
	Src, Dst netip.Addr
	Proto    uint8
	Zone     bpf.Zone
	ID       uint32
}

type fragmentPorts struct {
	src, dst uint16
	seen     int
}

// FragmentTime is how long the later fragments of a packet are expected, in seconds.
const FragmentTime = 30

// Node is a node that runs the datapath: its configuration, and its state.
type Node struct {
	*Config
	Clock    int // seconds
	Affinity map[AffinityKey]Affinity
	NextHops map[HopKey]*Hop
	// Direct is when datagrams that were for no service entered last.
	Direct map[Tuple]int
	// Shared reports that two of these tuples have one place in the programs' cache, which holds the later one.
	Shared bool
	Counts map[bpf.Hook]map[bpf.Verdict]int
	// Unsure counts the drops whose reason depends on a choice that can't be seen.
	Unsure int

	byFamily  [2]Table
	fragments map[fragmentKey]fragmentPorts
	choices   Choices
	hook      bpf.Hook
	device    *Device
	failure   error
}

// NewNode returns a node without any state.
func NewNode(c *Config, choices Choices) *Node {
	n := &Node{
		Config: c, choices: choices,
		Affinity:  make(map[AffinityKey]Affinity),
		NextHops:  make(map[HopKey]*Hop),
		Direct:    make(map[Tuple]int),
		Counts:    make(map[bpf.Hook]map[bpf.Verdict]int),
		fragments: make(map[fragmentKey]fragmentPorts),
	}
	for i := range n.byFamily {
		n.byFamily[i] = make(Table)
	}
	for h := range bpf.HookCount {
		n.Counts[h] = make(map[bpf.Verdict]int)
	}
	return n
}

func (n *Node) table(t Tuple) Table { return n.Table(t.Src.Addr().Is6()) }

// Table returns a family's flows.
func (n *Node) Table(v6 bool) Table {
	if v6 {
		return n.byFamily[1]
	}
	return n.byFamily[0]
}

// Find returns the record of a tuple, alive or not.
func (n *Node) Find(t Tuple) *Record { return n.table(t)[t] }

// Dead reports whether a record counts as absent.
func (n *Node) Dead(t Tuple, r *Record) bool { return n.dead(t, r) }

// Expire removes dead records.
func (n *Node) Expire() {
	for _, table := range n.byFamily {
		// a dead record stays dead without its mirror, and a live one's flow is alive
		for t, r := range table {
			if n.dead(t, r) {
				delete(table, t)
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

// Process returns what a hook does with a frame that comes in, or leaves, by a device. The error
// describes a wrong choice of the programs.
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
	if n.notForOne(frame) {
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
	p.tuple.Zone = zones[n.hook]
	switch n.hook {
	case bpf.HookXDP:
		return n.xdp(&p, how)
	case bpf.HookTCEgress:
		return n.egress(&p, how)
	}
	return n.ingress(&p, how)
}

// zones are the zones of packets, by hook; the default is outside.
var zones = map[bpf.Hook]bpf.Zone{bpf.HookTCPod: bpf.ZonePod, bpf.HookTCEgress: bpf.ZoneLeaving}

// notForOne reports whether a frame is to many receivers or, where this can be decided, was flooded
// to us by a switch.
func (n *Node) notForOne(frame []byte) bool {
	if n.hook == bpf.HookTCIngress {
		return [6]byte(frame[:6]) != n.device.MAC
	}
	return frame[0]&1 != 0
}

func left(v bpf.Verdict, p *packet) Result { return Result{Verdict: v, Frame: p.frame} }

var unread = map[reading]bpf.Verdict{
	otherProtocol: bpf.VerdictNotOurs, unreadable: bpf.VerdictUnparsed, isFragment: bpf.VerdictFragment,
}

// flow finds or makes the record of a packet that enters the node.
func (n *Node) flow(p *packet) (*Record, bpf.Verdict) {
	t := p.tuple
	if r := n.find(p); r != nil {
		return r, bpf.VerdictNone
	}
	policy := n.frontend(t.Dst, t.Proto)
	if policy == nil {
		if n.hook != bpf.HookXDP && p.proto() == UDP && p.begins() { // what XDP passes on comes by tc
			n.Direct[t] = n.Clock
		}
		if r := n.openBeside(p); r != nil {
			return r, bpf.VerdictNone
		}
		return nil, bpf.VerdictNotOurs
	}
	if v := n.open(p, policy, n.hook == bpf.HookTCPod); v != bpf.VerdictFlowOpened {
		return nil, v
	}
	n.event(bpf.VerdictFlowOpened)
	return n.table(t)[t], bpf.VerdictNone
}

// xdp transmits packets if it can, and leaves the rest to tc.
func (n *Node) xdp(p *packet, how reading) Result {
	if how != understood {
		return left(unread[how], p)
	}
	r, v := n.flow(p)
	switch {
	case v == bpf.VerdictRefused:
		return left(bpf.VerdictLeftToTC, p)
	case v != bpf.VerdictNone:
		return left(v, p)
	case !r.is(bpf.FlowExpress):
		return left(bpf.VerdictLeftToTC, p)
	}
	hop, ok := n.nextHop(r)
	if !ok || !hop.XDP || n.quiet(r) || hop.tooSmallFor(p) {
		return left(bpf.VerdictLeftToTC, p)
	}
	if p.ttl <= 1 {
		return left(bpf.VerdictDropTTL, p)
	}
	to := r.to(p.tuple)
	n.follow(r, p)
	out := p.rewritten(to.Src, to.Dst)
	p.hopDown(out)
	hop.address(out)
	action := Redirect
	if hop.Device == n.device.Index {
		action = Back
	}
	return Result{action, bpf.VerdictExpress, out}
}

// quiet reports whether a flow had no packet for a while. One packet of such a flow is left to the
// kernel, so that the kernel sees that the next hop is in use.
func (n *Node) quiet(r *Record) bool { return n.Clock > r.Seen }

// complete finds the ports of a fragment.
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
	return fragmentKey{p.tuple.Src.Addr(), p.tuple.Dst.Addr(), p.proto(), p.tuple.Zone, p.id}
}

func (n *Node) noteFragment(p *packet) {
	if p.part == first {
		n.fragments[p.fragmentKey()] = fragmentPorts{p.tuple.Src.Port(), p.tuple.Dst.Port(), n.Clock}
	}
}

// readMore completes a fragment, which tc processes, too.
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
	r, v := n.flow(p)
	switch v {
	case bpf.VerdictNotOurs:
		return n.clusterIP(p)
	case bpf.VerdictRefused:
		return n.refuse(p)
	case bpf.VerdictNone:
	default:
		return left(v, p)
	}
	n.noteFragment(p)
	switch {
	case r.is(bpf.FlowTurn):
		return n.turn(p, r)
	case r.is(bpf.FlowExpress):
		return n.transmit(p, r)
	}
	to := r.to(p.tuple)
	n.follow(r, p)
	src := netip.AddrPortFrom(p.tuple.Src.Addr(), to.Src.Port())
	return Result{Pass, bpf.VerdictStack, p.rewritten(src, to.Dst)}
}

// transmit is the express path in tc.
func (n *Node) transmit(p *packet, r *Record) Result {
	hop, ok := n.nextHop(r)
	switch {
	case !ok:
		return left(bpf.VerdictDropNoRoute, p)
	case p.ttl <= 1:
		return left(bpf.VerdictDropTTL, p)
	case hop.tooSmallFor(p):
		return n.sayTooBig(p, hop.MTU)
	}
	to, direct := r.to(p.tuple), hop.TC && !n.quiet(r)
	n.follow(r, p)
	out := p.rewritten(to.Src, to.Dst)
	p.hopDown(out)
	if direct {
		hop.address(out)
	}
	return Result{Redirect, bpf.VerdictExpress, out}
}

// turn sends a packet back to the pod that sent it to itself.
func (n *Node) turn(p *packet, r *Record) Result {
	if p.ttl <= 1 {
		return left(bpf.VerdictDropTTL, p)
	}
	to := r.to(p.tuple)
	n.follow(r, p)
	out := p.rewritten(to.Src, to.Dst)
	p.hopDown(out)
	swapMACs(out)
	return Result{Redirect, bpf.VerdictExpress, out}
}

func swapMACs(frame []byte) {
	dst := [6]byte(frame[:6])
	copy(frame, frame[6:12])
	copy(frame[6:], dst[:])
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
	r := n.find(p)
	if r == nil {
		r = n.openOwn(p)
	}
	if r == nil {
		return left(bpf.VerdictNotOurs, p)
	}
	n.noteFragment(p)
	to := r.to(p.tuple)
	n.follow(r, p)
	dst := netip.AddrPortFrom(p.tuple.Dst.Addr(), to.Dst.Port())
	action := Pass
	if n.isAstray(r, to.Dst.Addr()) {
		action = Redirect
	}
	return Result{action, bpf.VerdictSource, p.rewritten(to.Src, dst)}
}

// isAstray reports whether an answer is about to leave by another uplink than its request came in
// by.
func (n *Node) isAstray(r *Record, client netip.Addr) bool {
	in := n.Devices[r.In]
	if !r.is(bpf.FlowReply) || in == nil || in == n.device {
		return false
	}
	return in.Uplink && n.device.Uplink && n.Leads(in.Index, client)
}

// SPDX-License-Identifier: Apache-2.0

package model

import (
	"encoding/binary"
	"net/netip"

	"github.com/waggle-lb/waggle/bpf"
)

// icmp is an error, and the packet that it quotes.
type icmp struct {
	inner  int // offset of the quoted IP header
	ports  int // offset of its ports
	quoted Tuple
}

// readError parses an error that quotes at least the ports of a packet.
func (p *packet) readError() (e icmp, ok bool) {
	if len(p.frame) < p.l4+8 {
		return e, false
	}
	kind := p.frame[p.l4]
	e.inner = p.l4 + 8
	if p.v6 {
		ok = p.proto() == ICMPv6 && kind >= 1 && kind <= 4 && e.quotedIPv6(p.frame)
	} else {
		ok = p.proto() == ICMP && (kind == 3 || kind == 11 || kind == 12) && e.quotedIPv4(p.frame)
	}
	if end := min(len(p.frame), ethernet+p.length); !ok || e.ports+4 > end {
		return e, false
	}
	e.quoted = e.quoted.withPorts(
		binary.BigEndian.Uint16(p.frame[e.ports:]), binary.BigEndian.Uint16(p.frame[e.ports+2:]))
	e.quoted.Zone = p.tuple.Zone
	return e, e.quoted.Proto == TCP || e.quoted.Proto == UDP || e.quoted.Proto == SCTP
}

func (e *icmp) quotedIPv4(frame []byte) bool {
	if len(frame) < e.inner+20 {
		return false
	}
	ip := frame[e.inner:]
	e.quoted.Src = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[12:16])), 0)
	e.quoted.Dst = netip.AddrPortFrom(netip.AddrFrom4([4]byte(ip[16:20])), 0)
	e.quoted.Proto = ip[9]
	e.ports = e.inner + 4*int(ip[0]&15)
	return ip[0]>>4 == 4 && ip[0]&15 >= 5 && binary.BigEndian.Uint16(ip[6:])&0x1fff == 0
}

func (e *icmp) quotedIPv6(frame []byte) bool {
	if len(frame) < e.inner+40 {
		return false
	}
	ip := frame[e.inner:]
	e.quoted.Src = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[8:24])), 0)
	e.quoted.Dst = netip.AddrPortFrom(netip.AddrFrom16([16]byte(ip[24:40])), 0)
	e.quoted.Proto = ip[6]
	e.ports = e.inner + 40
	if ip[6] == fragment {
		if len(frame) < e.inner+48 || binary.BigEndian.Uint16(ip[42:])&^7 != 0 {
			return false
		}
		e.quoted.Proto = ip[40]
		e.ports += 8
	}
	return ip[0]>>4 == 6
}

// alive returns a usable record.
func (n *Node) alive(t Tuple) *Record {
	if r := n.table(t)[t]; r != nil && !n.dead(t, r) {
		return r
	}
	return nil
}

// about finds the record of the answers to the packet that an error quotes, and the tuple of those
// answers: an error takes their path. The records of split flows are in another zone than the one
// where errors about their packets leave the node.
func (n *Node) about(e icmp) (*Record, Tuple) {
	answer := e.quoted.reversed(e.quoted.Zone)
	r := n.alive(answer)
	if r != nil || e.quoted.Zone != bpf.ZoneLeaving {
		return r, answer
	}
	// towards the client: the kernel quotes the packet as it was between the two hooks
	if source := n.alive(e.quoted); source != nil && source.is(bpf.FlowSplitSource) {
		answer = source.mirror(e.quoted)
		return n.alive(answer), answer
	}
	// towards the backend: ingress has translated all but the error's source
	for _, zone := range []bpf.Zone{bpf.ZoneOutside, bpf.ZonePod} {
		asked := e.quoted
		asked.Zone = zone
		if client := n.alive(asked); client != nil && client.is(bpf.FlowSplit) {
			answer = client.mirror(asked)
			return n.alive(answer), answer
		}
	}
	return nil, answer
}

// icmpError translates an error about a translated packet, as an answer to that packet would be. It
// translates the quoted packet back to what its sender knows.
func (n *Node) icmpError(p *packet) (result Result, ours bool) {
	e, ok := p.readError()
	if !ok {
		return result, false
	}
	r, answer := n.about(e)
	if r == nil {
		return result, false
	}
	to := r.to(answer)
	express := !p.leaves() && r.is(bpf.FlowExpress)
	if express && !r.is(bpf.FlowTurn) {
		if _, ok := n.nextHop(r); !ok {
			return left(bpf.VerdictDropNoRoute, p), true
		}
	}
	if express && p.ttl <= 1 {
		return left(bpf.VerdictDropTTL, p), true
	}
	out := append([]byte(nil), p.frame...)
	e.restore(p, out, to)
	src, dst := addrs(p.frame, p.v6)
	if !p.leaves() {
		dst = to.Dst.Addr()
	}
	// a router's own address is more useful than ours, where the flow's source is kept
	if (express || p.leaves()) && to.Src.Addr() != answer.Src.Addr() {
		src = to.Src.Addr()
	}
	p.storeAddrs(out, src, dst)
	p.sumICMP(out)
	action := Pass
	if express {
		p.hopDown(out)
		action = Redirect
		if r.is(bpf.FlowTurn) {
			swapMACs(out)
		}
	}
	return Result{action, bpf.VerdictICMPError, out}, true
}

// restore gives the quoted packet the addresses and ports that its sender used.
func (e icmp) restore(p *packet, out []byte, to Tuple) {
	ip := out[e.inner:]
	if p.v6 {
		copy(ip[8:], to.Dst.Addr().AsSlice())
		copy(ip[24:], to.Src.Addr().AsSlice())
	} else {
		copy(ip[12:], to.Dst.Addr().AsSlice())
		copy(ip[16:], to.Src.Addr().AsSlice())
		size := e.ports - e.inner
		sumHeader(p.frame[e.inner:e.inner+size], ip[:size])
	}
	binary.BigEndian.PutUint16(out[e.ports:], to.Dst.Port())
	binary.BigEndian.PutUint16(out[e.ports+2:], to.Src.Port())
}

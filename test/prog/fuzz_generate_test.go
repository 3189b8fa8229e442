// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"math/rand/v2"
	"net/netip"

	"github.com/waggle-lb/waggle/test/model"
)

// generator makes scripts, each from one seed.
type generator struct {
	*rand.Rand
	s    script
	aged int // seconds
}

func generate(seed uint64) script {
	g := generator{Rand: rand.New(rand.NewPCG(seed, 0)), s: script{Seed: seed}}
	g.s.Settings = g.IntN(len(fuzzSettings))
	g.clusters()
	for range 1 + g.IntN(4) {
		g.service()
	}
	for range 2 + g.IntN(8) {
		g.flow()
	}
	for i := 8 + g.IntN(40); i > 0; i-- {
		g.event()
	}
	return g.s
}

func (g *generator) oneIn(n int) bool { return g.IntN(n) == 0 }

func pick[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

func (g *generator) plan(v6 bool) plan {
	if v6 {
		return plan6
	}
	return plan4
}

func (g *generator) clusters() {
	for _, p := range []plan{plan4, plan6} {
		if g.oneIn(2) {
			g.s.Local = append(g.s.Local, host(pick(g, p.far2, p.tunnelled, p.client2)))
		}
		if g.oneIn(3) {
			g.s.Local = append(g.s.Local, around(p.pod, 4))
		}
		if !g.oneIn(3) {
			g.s.CIDRs = append(g.s.CIDRs, scriptRange{around(p.vip, pick(g, 0, 1, 4, 8)), g.oneIn(2)})
		}
	}
}

const fuzzPorts = 3 // of everything, so that tuples meet

func (g *generator) service() {
	v6 := g.oneIn(2)
	p := g.plan(v6)
	s := scriptService{
		ID: uint32(101 + len(g.s.Services)), V6: v6, Proto: pick[uint8](g, model.TCP, model.TCP, model.UDP, model.UDP, model.SCTP),
	}
	if g.oneIn(3) {
		s.Affinity = pick(g, 5, 10, 60, 3600)
	}
	for range pick(g, 0, 1, 1, 1, 2, 3, 4) {
		a := pick(g, p.near, p.far, p.far, p.far2, p.unready, p.unready, p.tunnelled, p.tunnelled, p.silent,
			p.narrow, p.narrowSlow, p.pod, p.pod, p.pod2, p.blackholed, p.unreachable, p.back, p.tunnel)
		b := scriptBackend{Addr: at(a, uint16(8080+g.IntN(2)))}
		b.In = g.membership(a)
		s.Backends = append(s.Backends, b)
	}
	for range pick(g, 0, 0, 1, 2) {
		s.Ranges = append(s.Ranges, around(pick(g, p.client, p.client2, p.far, p.pod, p.near), pick(g, 0, 1, 8, 20)))
	}
	for range 1 + g.IntN(3) {
		f := scriptFrontend{Kind: g.IntN(4), ExternalLocal: g.oneIn(4), InternalLocal: g.oneIn(5)}
		switch model.Kind(f.Kind) {
		case model.NodePort:
			f.Addr = at(variant{plan: p}.any(), uint16(30080+g.IntN(fuzzPorts)))
		case model.ClusterIP:
			f.Addr = at(pick(g, p.vip, p.vip2), uint16(80+g.IntN(fuzzPorts)))
		default:
			f.Addr = at(pick(g, p.vip, p.vip2, p.front, p.back), uint16(80+g.IntN(fuzzPorts)))
		}
		if !g.taken(f.Addr, s.Proto) {
			s.Frontends = append(s.Frontends, f)
		}
	}
	g.s.Services = append(g.s.Services, s)
}

func (g *generator) membership(a netip.Addr) membership {
	in := pick(g, inCluster, inCluster, inCluster, inNone, 0)
	p := planOf(a)
	if local := a == p.pod || a == p.pod2 || a == p.back; local && !g.oneIn(4) {
		in |= inSelf
	}
	return in
}

// taken reports whether a service has the frontend already: a frontend belongs to one service.
func (g *generator) taken(a netip.AddrPort, proto uint8) bool {
	for _, s := range g.s.Services {
		for _, f := range s.Frontends {
			if f.Addr == a && s.Proto == proto {
				return true
			}
		}
	}
	return false
}

func (g *generator) flow() {
	if n := len(g.s.Flows); n > 0 && g.oneIn(3) { // a similar one, which it may collide with
		f := g.s.Flows[g.IntN(n)]
		if g.oneIn(2) {
			f.To = g.destination(f.Client.Addr().Is6(), f.Proto)
		} else {
			f.Client = at(f.Client.Addr(), g.clientPort())
		}
		g.s.Flows = append(g.s.Flows, f)
		return
	}
	s := pick(g, g.s.Services...)
	p := g.plan(s.V6)
	f := scriptFlow{Proto: s.Proto, From: "front"}
	switch g.IntN(10) {
	case 0, 1:
		f.From = "pod0"
		f.Client = at(pick(g, p.pod, p.pod2), g.clientPort())
	case 2:
		f.From = pick(g, "tunnel", "back", "slow", "pod0")
		f.Client = at(pick(g, p.far2, p.far, p.tunnelled, p.near), g.clientPort())
	case 3:
		f.Client = at(pick(g, p.near, p.narrowFar, p.far, p.front, p.blackholed), g.clientPort())
	default:
		f.Client = at(pick(g, p.client, p.client, p.client2), g.clientPort())
	}
	if g.oneIn(40) {
		f.Client = at(pick(g, addr("0.0.0.0"), addr("127.0.0.1"), addr("224.0.0.5"), addr("255.255.255.255")), 1000)
		if s.V6 {
			f.Client = at(pick(g, addr("::"), addr("::1"), addr("ff02::1")), 1000)
		}
	}
	f.To = g.destination(s.V6, s.Proto)
	if len(s.Frontends) > 0 && !g.oneIn(8) {
		f.To = g.frontendOf(s)
	}
	g.s.Flows = append(g.s.Flows, f)
}

// clientPort returns a port that only clients have, one for SNAT, or a NodePort.
func (g *generator) clientPort() uint16 {
	return pick[uint16](g, 1000, 1001, 1002, snatMin, snatMin+1, snatMin+20, 30080)
}

func (g *generator) frontendOf(s scriptService) netip.AddrPort {
	a := pick(g, s.Frontends...).Addr
	if p := g.plan(s.V6); a.Addr().IsUnspecified() {
		return at(pick(g, p.front, p.front, p.back, p.tunnel), a.Port())
	}
	return a
}

// destination returns an address that may be a frontend or not.
func (g *generator) destination(v6 bool, proto uint8) netip.AddrPort {
	p := g.plan(v6)
	for range 4 {
		if s := pick(g, g.s.Services...); s.V6 == v6 && s.Proto == proto && len(s.Frontends) > 0 {
			return g.frontendOf(s)
		}
	}
	a := pick(g, p.vip, p.vip2, p.vip.Next().Next(), p.front, p.back, p.far, p.pod, p.client)
	return at(a, pick[uint16](g, 80, 81, 443, 30080, 8080, snatMin))
}

// age lets time pass. The sum stays below the time in which 32 bits of jiffies wrap: the agent removes dead records
// long before.
func (g *generator) age() {
	seconds := pick(g, 5, 5, 10, 15, 30, 60, 65, 120, 3600, 86400)
	if g.aged+seconds <= 2*86400 {
		g.aged += seconds
		g.step("age", seconds)
	}
}

func (g *generator) event() {
	switch g.IntN(40) {
	case 0:
		g.age()
	case 1, 19:
		g.step("evict", g.IntN(100))
	case 2:
		if g.oneIn(2) {
			g.step("generation", 0)
		} else {
			g.step("neighbour", g.IntN(100))
		}
	case 3:
		g.step("expire", 0)
	case 4:
		s := g.IntN(len(g.s.Services))
		if n := len(g.s.Services[s].Backends); n > 0 {
			b := g.IntN(n)
			in := g.membership(g.s.Services[s].Backends[b].Addr.Addr())
			g.s.Steps = append(g.s.Steps, step{Op: "backend", N: s<<8 | b, In: in})
		}
		if g.oneIn(2) {
			g.step("stale", 0)
		}
	case 5:
		g.step(pick(g, "delete", "publish"), g.IntN(len(g.s.Services)))
	case 6, 7, 8, 9, 15, 16, 17:
		g.handshake(g.IntN(len(g.s.Flows)))
	case 10, 11:
		g.fragments(g.IntN(len(g.s.Flows)))
	case 18:
		p := g.packet(g.IntN(len(g.s.Flows)))
		p.Way, p.Error, p.Quote = pick(g, request, different), 1+8<<8, g.IntN(60)
		if g.s.Flows[p.Flow].Client.Addr().Is6() {
			p.Error = 1 + 128<<8
		}
		g.send(p)
	case 12, 13, 14:
		p := g.packet(g.IntN(len(g.s.Flows)))
		p.Error, p.Quote, p.Router = g.icmp(), pick(g, 8, 8, 8, 20, 40, 4, 3), g.oneIn(2)
		p.Way = pick(g, request, reply, between, arriving, arriving, arrived, arrived)
		g.send(p)
	default:
		g.send(g.packet(g.IntN(len(g.s.Flows))))
	}
}

func (g *generator) step(op string, n int) { g.s.Steps = append(g.s.Steps, step{Op: op, N: n}) }

func (g *generator) send(p packetOf) {
	g.s.Steps = append(g.s.Steps, step{Op: "packet", Packet: &p})
}

// icmp returns a type and code of either family. Some are errors.
func (g *generator) icmp() int {
	return 1 + pick(g, 3<<8|3, 3<<8|4, 3<<8|1, 11<<8, 12<<8, 1<<8|4, 2<<8, 4<<8, 8<<8, 0, 128<<8, 129<<8, 5<<8)
}

// The packets of TCP in the course of a connection, and those of SCTP (chunks).
var (
	tcpSends  = []uint8{model.Syn, model.Syn | model.Ack, model.Ack, model.Ack, model.Ack | 8, model.Fin | model.Ack, model.Rst, model.Rst | model.Ack, model.Fin, 0, 0x2b, model.Syn | 0xc0}
	sctpSends = []uint8{1, 2, 10, 11, 0, 0, 3, 6, 7, 8, 14, 4}
)

func (g *generator) flags(proto uint8) uint8 {
	switch proto {
	case model.TCP:
		return pick(g, tcpSends...)
	case model.SCTP:
		return pick(g, sctpSends...)
	}
	return 0
}

func (g *generator) packet(flow int) packetOf {
	f := g.s.Flows[flow]
	p := packetOf{
		Flow: flow, Way: pick(g, request, request, request, request, reply, reply, reply, reply, between, direct, different),
		Flags: g.flags(f.Proto), TTL: 64, Size: pick(g, 0, 0, 1, 2, 7, 32, 100),
	}
	if g.oneIn(3) {
		p.Content = g.Uint64()
	}
	if g.oneIn(8) {
		p.Seq, p.Ack = g.number(), g.number()
	}
	if f.Proto == model.UDP && p.Size >= 2 && g.oneIn(4) {
		p.Wrong = append(p.Wrong, wrong{What: "zero-sum"})
	}
	if g.oneIn(12) {
		p.TTL = pick[uint8](g, 0, 1, 2, 255)
	}
	if g.oneIn(12) {
		p.Size = pick(g, 1200, 1240, 1260, 1280, 1400, 1460, 1472, 1500, 1800)
	}
	if g.oneIn(12) {
		p.TOS = uint8(g.IntN(256))
	}
	if g.oneIn(5) {
		p.Hook = pick(g, "xdp", "ingress", "pod", "egress")
		p.Device = pick(g, "front", "front", "back", "slow", "tunnel", "pod0")
	}
	if g.oneIn(6) {
		for range 1 + g.IntN(2) {
			p.Wrong = append(p.Wrong, g.wrong())
		}
	}
	return p
}

func (g *generator) number() int32 {
	return pick(g, 0, 1, -1, 65535, 65536, 65537, -65536, 1<<30, -1<<31, int32(g.Uint32()))
}

// handshake opens a flow by a handshake, possibly with other packets in between.
func (g *generator) handshake(flow int) {
	f := g.s.Flows[flow]
	p := packetOf{Flow: flow, TTL: 64}
	steps := []packetOf{p, p, p}
	steps[1].Way = reply
	switch f.Proto {
	case model.TCP:
		steps[0].Flags, steps[1].Flags, steps[2].Flags = model.Syn, model.Syn|model.Ack, model.Ack
	case model.SCTP:
		steps[0].Flags, steps[1].Flags, steps[2].Flags = 1, 2, 10
	}
	for i, p := range steps {
		g.send(p)
		if g.oneIn(8) {
			g.send(steps[g.IntN(i+1)]) // repeated
		}
		if g.oneIn(8) {
			g.event()
		}
	}
	if f.Proto == model.UDP || !g.oneIn(3) {
		return
	}
	fin, last := uint8(model.Fin|model.Ack), uint8(model.Ack)
	if f.Proto == model.SCTP {
		fin, last = 7, 14
	}
	for _, way := range []int{request, reply} {
		p.Way, p.Flags = way, fin
		g.send(p)
	}
	p.Way, p.Flags = request, last
	g.send(p)
	if g.oneIn(2) {
		p.Flags = steps[0].Flags
		g.send(p)
	}
}

// fragments sends a packet in parts: in order, or not, or not all of them.
func (g *generator) fragments(flow int) {
	p := g.packet(flow)
	p.Way = pick(g, request, reply, between)
	p.Parts, p.ID = 2+g.IntN(3), uint16(g.IntN(3))
	p.Size = pick(g, 60, 100, 600)
	order := g.Perm(p.Parts)
	if !g.oneIn(3) {
		for i := range order {
			order[i] = i
		}
	}
	for _, i := range order {
		p.Part = i
		if !g.oneIn(10) {
			g.send(p)
		}
		if g.oneIn(10) {
			g.event()
		}
	}
}

func (g *generator) wrong() wrong {
	switch g.IntN(14) {
	case 0:
		return wrong{"vlan", pick(g, 0x8100, 0x88a8)}
	case 1:
		return wrong{"ip-options", 1 + g.IntN(10)}
	case 2:
		return wrong{"extension", pick(g, 0, 43, 60, 51)}
	case 3:
		return wrong{"cut", g.IntN(80)} // the number of bytes left
	case 4:
		return wrong{"length", pick(g, -30, -20, -8, -1, 1, 8, 100, -10000)}
	case 5:
		return wrong{"ip-checksum", 1 + g.IntN(0xfffe)}
	case 6:
		return wrong{"checksum", 1 + g.IntN(0xfffe)}
	case 7:
		return wrong{"no-checksum", 0}
	case 8:
		return wrong{"mac", pick(g, 0x02, 0x01, 0xff)}
	case 9:
		return wrong{"protocol", pick(g, 1, 2, 47, 50, 58, 59, 132, 136, 255)}
	case 10:
		return wrong{"version", g.IntN(256)}
	case 11:
		return wrong{"padding", 1 + g.IntN(40)}
	case 12:
		return wrong{"tcp-options", 1 + g.IntN(10)}
	}
	return wrong{"byte", g.IntN(1 << 16)} // the place, and the change
}

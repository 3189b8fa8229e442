// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"bytes"
	"encoding/binary"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// nftRule is a rule of nf_tables: a list of expressions, each of which loads a register, compares
// one, or acts. The first that does not hold ends the rule.
type nftRule struct {
	exprs []expr.Any
	sets  *setReader
}

// run is the evaluation of a rule for a packet.
type run struct {
	*nftRule
	packet    *Packet
	registers map[uint32]value
	applies   truth
	does      []action
}

func (n *nftRule) judge(p *Packet) (truth, []action) {
	r := run{nftRule: n, packet: p, registers: map[uint32]value{}, applies: yes}
	for _, e := range n.exprs {
		holds := r.step(e)
		if r.applies = min(r.applies, holds); holds == no {
			return no, nil
		}
	}
	return r.applies, r.does
}

// take empties a register: if a later expression that is not understood writes to it, the old value
// must not be used.
func (r *run) take(register uint32) value {
	v := r.registers[register]
	delete(r.registers, register)
	return v
}

func (r *run) do(kind kind, chain string) { r.does = append(r.does, action{kind, chain}) }

// step reports whether an expression holds. One that only acts holds.
func (r *run) step(e expr.Any) truth {
	switch e := e.(type) {
	case *expr.Counter, *expr.Log, *expr.Notrack, *expr.FlowOffload:
	case *expr.Meta:
		r.meta(e)
	case *expr.Ct:
		r.ct(e)
	case *expr.Payload:
		r.payload(e)
	case *expr.Immediate:
		r.registers[e.Register] = e.Data
	case *expr.Bitwise:
		r.bitwise(e)
	case *expr.Cmp:
		return r.compare(e)
	case *expr.Range:
		return inRange(r.take(e.Register), e)
	case *expr.Lookup:
		return r.lookup(e)
	case *expr.Verdict:
		r.verdict(e)
	case *expr.Reject:
		r.do(drop, "")
	case *expr.Queue:
		r.do(askFor, "")
	case *expr.Match:
		return r.match(e)
	case *expr.Target:
		r.target(e)
	default:
		clear(r.registers)
		return maybe
	}
	return yes
}

func (r *run) meta(e *expr.Meta) {
	if e.SourceRegister {
		if e.Key == expr.MetaKeyMARK {
			r.do(mark, "")
		}
		return
	}
	var v value
	switch e.Key {
	case expr.MetaKeyIIFNAME:
		v = device(r.packet.In)
	case expr.MetaKeyOIFNAME:
		v = device(r.packet.Out)
	case expr.MetaKeyNFPROTO:
		v = value{r.packet.family()}
	case expr.MetaKeyPROTOCOL:
		v = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IP)
		if r.packet.IPv6 {
			v = binary.BigEndian.AppendUint16(nil, unix.ETH_P_IPV6)
		}
	case expr.MetaKeyL4PROTO:
		if r.packet.Proto != 0 {
			v = value{r.packet.Proto}
		}
	}
	r.registers[e.Register] = v
}

func (r *run) ct(e *expr.Ct) {
	sets := e.SourceRegister || e.Register == 0 // the library does not decode what is set from a register
	switch {
	case sets && e.Key == expr.CtKeyMARK:
		r.do(mark, "")
	case sets:
	case e.Key == expr.CtKeySTATE:
		r.registers[e.Register] = binary.NativeEndian.AppendUint32(nil, r.packet.state())
	default:
		r.registers[e.Register] = nil
	}
}

func (r *run) payload(e *expr.Payload) {
	if e.OperationType == expr.PayloadWrite {
		return
	}
	switch e.Base {
	case expr.PayloadBaseNetworkHeader:
		r.registers[e.DestRegister] = r.packet.network(e.Offset, e.Len)
	case expr.PayloadBaseTransportHeader:
		r.registers[e.DestRegister] = r.packet.transport(e.Offset, e.Len)
	default:
		r.registers[e.DestRegister] = nil
	}
}

func (r *run) bitwise(e *expr.Bitwise) {
	in, n := r.take(e.SourceRegister), int(e.Len)
	if len(in) < n || len(e.Mask) != n || len(e.Xor) != n {
		r.registers[e.DestRegister] = nil
		return
	}
	out := make(value, n)
	for i := range out {
		out[i] = in[i]&e.Mask[i] ^ e.Xor[i]
	}
	r.registers[e.DestRegister] = out
}

// compare keeps the register for the second of two comparisons that make a range.
func (r *run) compare(e *expr.Cmp) truth {
	v := r.registers[e.Register]
	if e.Op == expr.CmpOpEq || e.Op == expr.CmpOpNeq {
		delete(r.registers, e.Register)
	}
	return compare(v, e.Op, e.Data)
}

func compare(v value, op expr.CmpOp, with []byte) truth {
	if len(v) < len(with) {
		return maybe
	}
	order := bytes.Compare(v[:len(with)], with)
	switch op {
	case expr.CmpOpEq:
		return truthOf(order == 0)
	case expr.CmpOpNeq:
		return truthOf(order != 0)
	case expr.CmpOpLt:
		return truthOf(order < 0)
	case expr.CmpOpLte:
		return truthOf(order <= 0)
	case expr.CmpOpGt:
		return truthOf(order > 0)
	case expr.CmpOpGte:
		return truthOf(order >= 0)
	}
	return maybe
}

func inRange(v value, e *expr.Range) truth {
	inside := min(compare(v, expr.CmpOpGte, e.FromData), compare(v, expr.CmpOpLte, e.ToData))
	if v == nil {
		inside = maybe
	}
	if e.Op == expr.CmpOpNeq {
		return inside.not()
	}
	return inside
}

var verdicts = map[expr.VerdictKind]kind{
	expr.VerdictAccept: accept, expr.VerdictDrop: drop, expr.VerdictQueue: askFor,
	expr.VerdictJump: jumpTo, expr.VerdictGoto: goTo, expr.VerdictReturn: back,
}

func (r *run) verdict(e *expr.Verdict) { r.do(verdicts[e.Kind], e.Chain) }

// lookup looks a register up in a set, or in a map of verdicts.
func (r *run) lookup(e *expr.Lookup) truth {
	v := r.take(e.SourceRegister)
	set := r.sets.read(e.SetName)
	if set == nil {
		return maybe
	}
	found, holds := set.find(v)
	if e.Invert {
		holds = holds.not()
	}
	if !e.IsDestRegSet {
		return holds
	}
	if e.DestRegister != unix.NFT_REG_VERDICT {
		r.registers[e.DestRegister] = nil
		return holds
	}
	for _, element := range found {
		r.verdict(verdictOf(element.Val))
	}
	return holds
}

// verdictOf decodes an element of a map of verdicts, which the library returns undecoded: nested
// attributes, NFTA_VERDICT_CODE and NFTA_VERDICT_CHAIN.
func verdictOf(raw []byte) *expr.Verdict {
	v := &expr.Verdict{Kind: expr.VerdictContinue}
	attrs, err := nl.ParseRouteAttr(raw)
	if err != nil {
		return v
	}
	for _, a := range attrs {
		switch a.Attr.Type {
		case unix.NFTA_VERDICT_CODE:
			if len(a.Value) == 4 {
				v.Kind = expr.VerdictKind(int32(binary.BigEndian.Uint32(a.Value)))
			}
		case unix.NFTA_VERDICT_CHAIN:
			v.Chain = unix.ByteSliceToString(a.Value)
		}
	}
	return v
}

// match evaluates a match of iptables.
func (r *run) match(e *expr.Match) truth {
	switch info := e.Info.(type) {
	case *xt.Comment:
		return yes
	case *xt.ConntrackMtinfo1:
		return r.inStates(info.ConntrackMtinfoBase, uint32(info.StateMask))
	case *xt.ConntrackMtinfo2:
		return r.inStates(info.ConntrackMtinfoBase, uint32(info.StateMask))
	case *xt.ConntrackMtinfo3:
		return r.inStates(info.ConntrackMtinfoBase, uint32(info.StateMask))
	case *xt.Tcp:
		known := info.SrcPorts == [2]uint16{0, 65535} && info.FlagsMask == 0 && info.Option == 0
		return r.toPorts(info.DstPorts, info.InvFlags == xt.TcpInvDestPorts, known && info.InvFlags&^xt.TcpInvDestPorts == 0)
	case *xt.Udp:
		known := info.SrcPorts == [2]uint16{0, 65535}
		return r.toPorts(info.DstPorts, info.InvFlags == xt.UdpInvDestPorts, known && info.InvFlags&^xt.UdpInvDestPorts == 0)
	}
	if e.Name == "comment" {
		return yes
	}
	return maybe
}

func (r *run) inStates(info xt.ConntrackMtinfoBase, states uint32) truth {
	if xt.ConntrackFlags(info.MatchFlags)&^xt.ConntrackStateAlias != xt.ConntrackState {
		return maybe
	}
	holds := truthOf(r.packet.state()&states != 0)
	if xt.ConntrackFlags(info.InvertFlags)&xt.ConntrackState != 0 {
		return holds.not()
	}
	return holds
}

func (r *run) toPorts(ports [2]uint16, not, onlyThese bool) truth {
	holds := truthOf(ports[0] <= r.packet.DstPort && r.packet.DstPort <= ports[1])
	if not {
		holds = holds.not()
	}
	all := ports == [2]uint16{0, 65535} && !not
	if holds != no && !onlyThese || r.packet.DstPort == 0 && !all {
		return maybe
	}
	return holds
}

// targets are the targets of iptables that decide something, or mark.
var targets = map[string]kind{
	"ACCEPT": accept, "DROP": drop, "REJECT": drop, "RETURN": back, "NFQUEUE": askFor,
	"MARK": mark, "CONNMARK": mark,
}

func (r *run) target(e *expr.Target) {
	if kind, ok := targets[e.Name]; ok {
		r.do(kind, "")
	}
}

// setReader reads the sets of a table, each once.
type setReader struct {
	conn  *nftables.Conn
	table *nftables.Table
	known map[string]*set
}

// read returns nil if the set can't be read or decoded.
func (s *setReader) read(name string) *set {
	if known, ok := s.known[name]; ok {
		return known
	}
	if s.known == nil {
		s.known = map[string]*set{}
	}
	s.known[name] = nil
	about, err := s.conn.GetSetByName(s.table, name)
	if err != nil {
		return nil
	}
	elements, err := s.conn.GetSetElements(about)
	if err != nil {
		return nil
	}
	s.known[name] = newSet(about, elements)
	return s.known[name]
}

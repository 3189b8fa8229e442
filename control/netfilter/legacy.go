// SPDX-License-Identifier: Apache-2.0

package netfilter

import (
	"encoding/binary"

	"github.com/google/nftables/expr"
	"github.com/google/nftables/xt"

	"github.com/waggle-lb/waggle/control/xtables"
)

// legacyHooks are the built-in chains, by the kernel's number of their hook.
var legacyHooks = []struct {
	name string
	hook Hook
}{{"PREROUTING", Prerouting}, {"INPUT", Input}, {"FORWARD", Forward}, {"OUTPUT", OtherHook}, {"POSTROUTING", OtherHook}}

// readLegacy reads the existing tables, except the one that translates.
func (r *Rules) readLegacy() error {
	for _, f := range xtables.Families {
		names, err := f.Tables()
		if err != nil {
			return err
		}
		for _, name := range names {
			if name == "nat" {
				continue
			}
			t, err := f.Table(name)
			if err != nil {
				return err
			}
			r.addLegacy(f, name, t)
		}
	}
	return nil
}

// addLegacy makes chains of a table's entries. A built-in chain begins at its hook's offset, and
// ends with its policy; others begin after an entry that names them.
func (r *Rules) addLegacy(f xtables.Family, tableName string, from *xtables.Table) {
	begins, policies := map[int]int{}, map[int]bool{}
	for hook, offset := range from.Begin {
		begins[offset], policies[from.Policy[hook]] = hook, true
	}
	t := &table{chains: map[string]*Chain{}}
	names := map[int]string{} // of chains, by the offset of their first rule
	var chain *Chain
	var rules *[]rule
	begin := func(name string, hook Hook) {
		list := &[]rule{}
		rules = list
		chain = &Chain{Family: "ip", Table: tableName, Name: name, Hook: hook, Legacy: true,
			rules: func() ([]rule, error) { return *list, nil }}
		if f.IPv6 {
			chain.Family = "ip6"
		}
		r.add(t, chain)
	}
	for _, e := range from.Entries {
		if name, is := e.ChainName(); is {
			names[e.Next] = name
			begin(name, NoHook)
			continue
		}
		if hook, is := begins[e.Offset]; is {
			begin(legacyHooks[hook].name, legacyHooks[hook].hook)
		}
		if policies[e.Offset] {
			_, does := (&legacyRule{entry: e, ipv6: f.IPv6}).judge(&Packet{IPv6: f.IPv6})
			chain.Drops = len(does) == 1 && does[0].kind == drop
		} else {
			*rules = append(*rules, (&legacyRule{e, f.IPv6, names}).judge)
		}
	}
}

// legacyRule is an entry of a table.
type legacyRule struct {
	entry xtables.Entry
	ipv6  bool
	names map[int]string
}

func (l *legacyRule) judge(p *Packet) (truth, []action) {
	m := l.header()
	applies := min(
		m.masked(p.network(uint32(m.srcAt), uint32(m.address)), 0, invertSrc),
		m.masked(p.network(uint32(m.dstAt), uint32(m.address)), 1, invertDst),
		m.device(device(p.In), 0, invertIn), m.device(device(p.Out), 1, invertOut),
		m.proto(p.Proto))
	if applies == no {
		return no, nil
	}
	matches, err := l.entry.Matches()
	if err != nil {
		applies = maybe
	}
	for _, one := range matches {
		info, err := xt.Unmarshal(one.Name, xt.TableFamily(p.family()), uint32(one.Revision), one.Data)
		if err != nil {
			info = nil
		}
		r := run{packet: p}
		if applies = min(applies, r.match(&expr.Match{Name: one.Name, Rev: uint32(one.Revision), Info: info})); applies == no {
			return no, nil
		}
	}
	return applies, l.does(m)
}

// The verdicts of a target without a name. Other values are the offset of a chain.
const (
	legacyDrop   = -1
	legacyAccept = -2
	legacyReturn = -5
)

func (l *legacyRule) does(m header) []action {
	target, err := l.entry.Does()
	if err != nil {
		return nil
	}
	if target.Name != "" {
		if kind, known := targets[target.Name]; known {
			return []action{{kind, ""}}
		}
		return nil
	}
	if len(target.Data) < 4 {
		return nil
	}
	switch verdict := int32(binary.NativeEndian.Uint32(target.Data)); {
	case verdict == legacyDrop:
		return []action{{drop, ""}}
	case verdict == legacyAccept:
		return []action{{accept, ""}}
	case verdict == legacyReturn:
		return []action{{back, ""}}
	case verdict >= 0 && l.names[int(verdict)] == "": // continues behind the rule
		return nil
	case verdict >= 0 && m.goTo:
		return []action{{goTo, l.names[int(verdict)]}}
	case verdict >= 0:
		return []action{{jumpTo, l.names[int(verdict)]}}
	}
	return []action{{askFor, ""}}
}

// header is a struct ipt_ip or ip6t_ip6.
type header struct {
	raw                   []byte
	srcAt, dstAt, address int // offsets in packets; the length of an address
	inverted              byte
	goTo                  bool
	fragments             bool
}

// The bits of invflags.
const (
	invertIn    = 1 << 0
	invertOut   = 1 << 1
	invertSrc   = 1 << 3
	invertDst   = 1 << 4
	invertProto = 1 << 6
)

func (l *legacyRule) header() header {
	m := header{raw: l.entry.Match, srcAt: 12, dstAt: 16, address: 4}
	flags, fragment, goes := 82, byte(1), byte(2)
	if l.ipv6 {
		m.srcAt, m.dstAt, m.address = 8, 24, 16
		flags, fragment, goes = 131, 0, 4
	}
	m.inverted = m.raw[flags+1]
	m.goTo, m.fragments = m.raw[flags]&goes != 0, m.raw[flags]&fragment != 0
	return m
}

// devicesAt is the offset of the devices' names, behind two addresses and their masks.
func (m header) devicesAt() int { return 4 * m.address }

const nameSize = 16

// masked compares the source (0) or the destination (1).
func (m header) masked(v value, which int, invert byte) truth {
	at := which * m.address
	return m.equals(v, m.raw[at:at+m.address], m.raw[at+2*m.address:at+3*m.address], invert)
}

// device compares the device that the packet came in by (0), or leaves by (1).
func (m header) device(v value, which int, invert byte) truth {
	at := m.devicesAt() + which*nameSize
	return m.equals(v, m.raw[at:at+nameSize], m.raw[at+2*nameSize:at+3*nameSize], invert)
}

func (m header) equals(v value, want, mask []byte, invert byte) truth {
	anything, equal := true, true
	for i := range mask {
		anything = anything && mask[i] == 0
		equal = equal && (len(v) <= i || (v[i]^want[i])&mask[i] == 0)
	}
	holds := truthOf(equal)
	if !anything && v == nil {
		holds = maybe
	}
	if m.inverted&invert != 0 {
		return holds.not()
	}
	return holds
}

func (m header) proto(proto uint8) truth {
	want := binary.NativeEndian.Uint16(m.raw[m.devicesAt()+4*nameSize:])
	holds := truthOf(want == uint16(proto))
	switch {
	case m.fragments:
		return maybe
	case want == 0:
		return yes
	case proto == 0:
		return maybe
	case m.inverted&invertProto != 0:
		return holds.not()
	}
	return holds
}

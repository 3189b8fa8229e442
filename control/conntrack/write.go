// SPDX-License-Identifier: Apache-2.0

package conntrack

import (
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ErrExists is returned by Create if another entry has one of the tuples.
const ErrExists = unix.EEXIST

// beLiberal makes the kernel accept TCP segments outside of the window: it has no window of a
// connection whose beginning it has not seen (nf_conntrack_tcp.h, IP_CT_TCP_FLAG_BE_LIBERAL).
const beLiberal = 1 << 3

// Create makes an entry from all members of e but Zone. From then on the kernel translates its packets, in a
// network namespace that has chains of type nat. The state of an SCTP association can't be given:
// Create would have to know its tags. It fails with ErrExists if another entry has one of the
// tuples.
func (t *Table) Create(e Entry) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := newMessage(t.out, nl.IPCTNL_MSG_CT_NEW, unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK, familyOf(e.Orig.Src.Addr()))
	m.tuple(nl.CTA_TUPLE_ORIG, e.Orig, e.Proto)
	m.tuple(nl.CTA_TUPLE_REPLY, e.Orig.Reversed(), e.Proto) // as if nothing were translated
	m.nat(ctaNATDst, e.Reply.Src)
	m.nat(ctaNATSrc, e.Reply.Dst)
	m.word(nl.CTA_STATUS, e.Status|statusConfirmed)
	m.word(nl.CTA_TIMEOUT, uint32(e.Timeout.Seconds()))
	m.word(nl.CTA_MARK, e.Mark)
	if e.Proto == unix.IPPROTO_TCP {
		m.nest(nl.CTA_PROTOINFO, func() {
			m.nest(nl.CTA_PROTOINFO_TCP, func() {
				m.attr(nl.CTA_PROTOINFO_TCP_STATE, e.State)
				m.attr(nl.CTA_PROTOINFO_TCP_FLAGS_ORIGINAL, beLiberal, beLiberal)
				m.attr(nl.CTA_PROTOINFO_TCP_FLAGS_REPLY, beLiberal, beLiberal)
			})
		})
	}
	return t.acknowledged(m)
}

// Delete removes the entry that has a tuple, in either direction. It fails with ErrNotFound if
// there is none.
func (t *Table) Delete(tuple Tuple, proto uint8) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := newMessage(t.out, nl.IPCTNL_MSG_CT_DELETE, unix.NLM_F_ACK, familyOf(tuple.Src.Addr()))
	m.tuple(nl.CTA_TUPLE_ORIG, tuple, proto)
	return t.acknowledged(m)
}

func (t *Table) acknowledged(m message) error {
	t.out = m
	return t.exchange(m, answer.result)
}

// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/control/ipvs"
	"github.com/waggle-lb/waggle/maps"
)

// adoptVirtual makes records of the connections that virtual servers (IPVS) translate. adoption.run finds those that
// have an entry in the kernel's table: IPVS writes the endpoint into its tuples (ip_vs_nfct.c). Others have no entry:
// all where net.ipv4.vs.conntrack is 0, and UDP clients that are silent for longer than the table keeps them.
func (t *Takeover) adoptVirtual() {
	a := adoption{dp: t.dp}
	bad, err := t.virtual(func(c ipvs.Connection) {
		if e, err := virtualEntry(t.table, c); err != nil {
			a.fail(e, err)
		} else {
			a.take(e)
		}
	})
	if bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d lines can't be understood", bad))
	}
	t.took(&a)
	if err := errors.Join(err, a.failures()); err != nil {
		t.log.WithError(err).Error("taking over IPVS' connections: some break")
	}
}

// virtualEntry returns the kernel's entry of a connection of IPVS, which shows a masquerade. If there is none, it
// makes an entry from IPVS' data.
func virtualEntry(table *conntrack.Table, c ipvs.Connection) (conntrack.Entry, error) {
	orig := conntrack.Tuple{Src: c.Client, Dst: c.Virtual}
	e, err := table.Get(orig, c.Proto)
	if err != nil || e.Orig != orig || !e.Translated() {
		e = conntrack.Entry{
			Proto: c.Proto, Orig: orig, Reply: conntrack.Tuple{Src: c.Real, Dst: c.Client},
			State: stateInTable(c.Proto, c.State),
		}
	}
	e.Timeout = c.Expires // IPVS translates for so long, with or without an entry
	if errors.Is(err, conntrack.ErrNotFound) {
		err = nil
	}
	return e, err
}

// followed returns the entry that an adopted record follows: the kernel's, or else one from IPVS' data.
func (f *follower) followed(r maps.Flow) (conntrack.Entry, error) {
	lacks := func(e conntrack.Entry, err error) bool {
		return errors.Is(err, conntrack.ErrNotFound) || err == nil && !e.Translated()
	}
	e, err := f.get(conntrack.Tuple{Src: r.Key.Src, Dst: r.Key.Dst}, r.Key.Proto)
	if lacks(e, err) && r.Flags&bpf.FlowReply != 0 {
		// An entry that was made anew may have another tuple of answers, such as one masqueraded from another port.
		e, err = f.get(entryOf(r).Orig, r.Key.Proto)
	}
	if lacks(e, err) {
		return f.virtual.entry(r)
	}
	return e, err
}

// stateInTable converts IPVS' state of a connection to that of the table of connections.
func stateInTable(proto uint8, s ipvs.State) uint8 {
	switch proto {
	case unix.IPPROTO_TCP:
		return [...]uint8{
			ipvs.Open: conntrack.TCPEstablished, ipvs.HalfClosed: conntrack.TCPFinWait,
			ipvs.Closed: conntrack.TCPTimeWait, ipvs.Reset: conntrack.TCPClose,
		}[s]
	case unix.IPPROTO_SCTP:
		return [...]uint8{
			ipvs.Open: conntrack.SCTPEstablished, ipvs.HalfClosed: conntrack.SCTPShutdownSent,
			ipvs.Closed: conntrack.SCTPShutdownAckSent, ipvs.Reset: conntrack.SCTPClosed,
		}[s]
	}
	return 0
}

// virtuals are IPVS' connections at one moment. They are read when the first is needed: most records have an entry in
// the kernel's table of connections, and IPVS can't be asked for a single connection.
type virtuals struct {
	each func(func(ipvs.Connection)) (bad int, err error)
	read bool
	err  error
	seed maphash.Seed
	all  []virtual // by hash
}

// virtual is a connection in 16 bytes, since there may be hundreds of thousands.
type virtual struct {
	hash    uint64 // of its protocol and addresses
	expires uint32 // seconds
	state   ipvs.State
}

// entry returns the entry that the kernel's table would have for an adopted record's connection, if IPVS has it.
func (v *virtuals) entry(r maps.Flow) (conntrack.Entry, error) {
	if !v.read {
		v.load()
	}
	e := entryOf(r)
	hash := v.hash(ipvs.Connection{Proto: e.Proto, Client: e.Orig.Src, Virtual: e.Orig.Dst, Real: e.Reply.Src})
	i, found := slices.BinarySearchFunc(v.all, hash, func(c virtual, hash uint64) int { return cmp.Compare(c.hash, hash) })
	switch {
	case found:
		e.State, e.Timeout = stateInTable(e.Proto, v.all[i].state), time.Duration(v.all[i].expires)*time.Second
		return e, nil
	case v.err != nil:
		return e, v.err
	}
	return e, conntrack.ErrNotFound
}

func (v *virtuals) load() {
	v.read, v.seed = true, maphash.MakeSeed()
	_, v.err = v.each(func(c ipvs.Connection) {
		expires := min(c.Expires/time.Second, math.MaxUint32)
		v.all = append(v.all, virtual{hash: v.hash(c), expires: uint32(expires), state: c.State})
	})
	slices.SortFunc(v.all, func(a, b virtual) int { return cmp.Compare(a.hash, b.hash) })
}

func (v *virtuals) hash(c ipvs.Connection) uint64 {
	const one = 16 + 2
	var b [3*one + 1]byte
	for i, a := range [...]netip.AddrPort{c.Client, c.Virtual, c.Real} {
		addr := a.Addr().As16()
		copy(b[i*one:], addr[:])
		binary.NativeEndian.PutUint16(b[i*one+16:], a.Port())
	}
	b[3*one] = c.Proto
	return maphash.Bytes(v.seed, b[:])
}

// entryOf is the entry from which an adopted record was made, as far as the record shows it.
func entryOf(r maps.Flow) conntrack.Entry {
	key, to := conntrack.Tuple{Src: r.Key.Src, Dst: r.Key.Dst}, conntrack.Tuple{Src: r.To.Src, Dst: r.To.Dst}
	e := conntrack.Entry{Proto: r.Key.Proto, Orig: key, Reply: to.Reversed()}
	if r.Flags&bpf.FlowReply != 0 {
		e.Orig, e.Reply = to.Reversed(), key
	}
	return e
}

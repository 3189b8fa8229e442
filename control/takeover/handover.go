// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// Handover gives the flows of a datapath to the kernel's table of connections, which goes on
// translating them when the datapath is gone. It needs the pin directory, so no agent runs.
//
// Most flows are not in that table: they pass the node's stack translated, or not at all. An entry
// is made, and then the flow's records end: its packets are left to the stack, and no flow of ours
// opens any more, since there are no frontends.
type Handover struct {
	dp    *loader.Datapath
	table *conntrack.Table
	guard *guard

	Given int   // flows
	Why   error // the first of those that could not be given was not
}

// NewHandover begins one: from now on the datapath opens no flow for a service. What it has written
// into netfilter is removed by Close, but for what ReleaseNAT removes.
func NewHandover(dp *loader.Datapath) (*Handover, error) {
	if err := keepNAT(); err != nil {
		return nil, err
	}
	if err := withdraw(dp); err != nil {
		return nil, err
	}
	table, err := conntrack.Open()
	if err != nil {
		return nil, err
	}
	guard, err := newGuard()
	if err != nil {
		return nil, errors.Join(err, table.Close())
	}
	return &Handover{dp: dp, table: table, guard: guard}, nil
}

// Close ends it, and removes what it has written into netfilter.
func (h *Handover) Close() error { return errors.Join(h.guard.remove(), h.table.Close()) }

// withdraw takes all frontends out of the datapath, but first the ranges whose addresses it would
// refuse then.
func withdraw(dp *loader.Datapath) error {
	if err := maps.NewClusterAddrs(dp).SetRanges(nil); err != nil {
		return err
	}
	services := maps.NewServices(dp)
	all, err := services.All()
	if err != nil {
		return err
	}
	for frontend := range all {
		if err := services.Delete(frontend); err != nil {
			return err
		}
	}
	return nil
}

// Left counts the flows that are still translated by the datapath.
func (h *Handover) Left() (flows int, err error) {
	err = h.each(func(maps.Flow) error {
		flows++
		return nil
	})
	return flows, err
}

// each calls fn with the client's record of each flow to be handed over.
func (h *Handover) each(fn func(maps.Flow) error) error {
	for i, family := range maps.Families {
		if _, err := h.dp.Expire(i == 1); err != nil {
			return err
		}
		var failed error
		err := maps.Flows(h.dp, family, func(r maps.Flow) bool {
			if isOurs(r) {
				failed = fn(r)
			}
			return failed == nil
		})
		if err := errors.Join(err, failed); err != nil {
			return err
		}
	}
	return nil
}

// isOurs tells of which records the flow is translated by the datapath, and goes on.
func isOurs(r maps.Flow) bool {
	const others = bpf.FlowReply | bpf.FlowSplitSource | bpf.FlowForeign
	return r.Flags&others == 0 && !r.Closed() && (r.To.Src != r.Key.Src || r.To.Dst != r.Key.Dst)
}

// bypasses reports whether neither the client's packets nor the answers meet netfilter with the
// tuples that they have beyond the datapath.
func bypasses(r maps.Flow) bool { return r.Flags&(bpf.FlowExpress|bpf.FlowSplit) != 0 }

// movedAtOnce is how many flows are without a translator for the time that one of them takes.
const movedAtOnce = 256

// Give hands all flows over. It may be repeated.
func (h *Handover) Give() error {
	var moving []maps.Flow
	err := h.each(func(r maps.Flow) error {
		if bypasses(r) {
			h.count(r, h.giveBypassing(r))
			return nil
		}
		if moving = append(moving, r); len(moving) < movedAtOnce {
			return nil
		}
		err := h.move(moving)
		moving = moving[:0]
		return err
	})
	if err != nil {
		return err
	}
	return h.move(moving)
}

func (h *Handover) count(r maps.Flow, err error) {
	if err == nil {
		h.Given++
		return
	}
	if h.Why == nil {
		h.Why = fmt.Errorf("protocol %d, %s to %s: %w", r.Key.Proto, r.Key.Src, r.Key.Dst, err)
	}
}

var errSCTP = errors.New("the kernel can't be told of an SCTP association that it has not seen begin")

// giveBypassing: the kernel's entry is there before the datapath lets go, and meets no packet till then.
func (h *Handover) giveBypassing(r maps.Flow) error {
	if r.Key.Proto == unix.IPPROTO_SCTP {
		return errSCTP
	}
	if err := h.create(kernelEntry(r)); err != nil {
		return err
	}
	if r.Confirmed() {
		return h.leave(append([]maps.Flow{r}, r.Others()...)...)
	}
	return h.leave(append(r.Others(), r)...) // an answer would make the client's anew
}

// move hands flows over whose translated packets the kernel tracks already: that entry has to go
// first. Meanwhile the guard drops packets in either direction, which are sent again.
func (h *Handover) move(flows []maps.Flow) error {
	if len(flows) == 0 {
		return nil
	}
	var tuples []maps.Tuple
	for _, r := range flows {
		tuples = append(tuples, r.Key, r.Others()[0].Key)
	}
	if err := h.guard.hold(tuples); err != nil {
		return err
	}
	for _, r := range flows {
		h.count(r, h.moveOne(r))
	}
	return h.guard.hold(nil)
}

// moveOne ends the client's record before the kernel has its entry, and that of the answers after
// it: till then they are translated where they leave, and from then on before.
func (h *Handover) moveOne(r maps.Flow) error {
	if r.Key.Proto == unix.IPPROTO_SCTP {
		return errSCTP
	}
	e, err := h.trackedEntry(r)
	if err != nil {
		return err
	}
	if !r.Confirmed() { // an answer would make the client's anew
		err = h.leave(r.Others()...)
	}
	if err := errors.Join(err, h.leave(r), h.create(e)); err != nil {
		return err
	}
	return h.leave(r.Others()...)
}

// trackedEntry is kernelEntry, with what the kernel knows of the flow.
func (h *Handover) trackedEntry(r maps.Flow) (conntrack.Entry, error) {
	e := kernelEntry(r)
	// a flow that has only got another source port, behind netfilter
	renumbered := r.Key.Zone == bpf.ZoneLeaving
	seen := e.Reply.Reversed()
	if renumbered {
		seen = e.Orig.Reversed()
	}
	tracked, err := h.table.Get(seen, e.Proto)
	switch {
	case errors.Is(err, conntrack.ErrNotFound):
		return e, nil
	case err != nil:
		return e, err
	case renumbered && tracked.Reply == seen:
		e.Orig = tracked.Orig
	case !renumbered && tracked.Orig == seen:
		e.Reply = tracked.Reply // to an address that others have given the client, perhaps
	default:
		return e, nil
	}
	e.State, e.Mark, e.Timeout = tracked.State, tracked.Mark, tracked.Timeout
	return e, nil
}

// createTries is how often an entry is in the way that a packet has just made.
const createTries = 8

// create makes an entry in place of those that have one of its tuples.
func (h *Handover) create(e conntrack.Entry) error {
	if e.Timeout < time.Second {
		e.Timeout = time.Second
	}
	err := error(conntrack.ErrExists)
	for try := 0; try < createTries && errors.Is(err, conntrack.ErrExists); try++ {
		for _, tuple := range []conntrack.Tuple{e.Orig, e.Reply, e.Reply.Reversed()} {
			if err := h.table.Delete(tuple, e.Proto); err != nil && !errors.Is(err, conntrack.ErrNotFound) {
				return err
			}
		}
		err = h.table.Create(e)
	}
	if err != nil {
		return err
	}
	made, err := h.table.Get(e.Orig, e.Proto)
	if err == nil && made.Reply != e.Reply {
		err = errors.Join(fmt.Errorf("the kernel would have it answered by %s, not %s", made.Reply, e.Reply), h.table.Delete(e.Orig, e.Proto))
	}
	return err
}

// leave ends records.
func (h *Handover) leave(records ...maps.Flow) error {
	for _, r := range records {
		if _, err := h.dp.Leave(r.Adoption()); err != nil {
			return err
		}
	}
	return nil
}

// How long the kernel keeps an entry that sees no packet. The first packet sets it anew.
const (
	establishedTimeout = 5 * 24 * time.Hour // nf_conntrack_tcp_timeout_established
	otherTimeout       = 2 * time.Minute    // of TCP's other states, and UDP streams
)

// kernelEntry is what the kernel would have of a flow had it opened it.
func kernelEntry(r maps.Flow) conntrack.Entry {
	e := conntrack.Entry{
		Proto:   r.Key.Proto,
		Orig:    conntrack.Tuple{Src: r.Key.Src, Dst: r.Key.Dst},
		Reply:   conntrack.Tuple{Src: r.To.Dst, Dst: r.To.Src},
		Timeout: otherTimeout,
	}
	if r.State&bpf.StateAnswered != 0 {
		e.Status |= conntrack.StatusSeenReply
	}
	if r.State&bpf.StateConfirmed != 0 {
		e.Status |= conntrack.StatusSeenReply | conntrack.StatusAssured
	}
	if r.Key.Proto == unix.IPPROTO_TCP {
		e.State = tcpStateOf(r)
		if e.State == conntrack.TCPEstablished {
			e.Timeout = establishedTimeout
		}
	}
	return e
}

func tcpStateOf(r maps.Flow) uint8 {
	switch {
	case r.State&bothFINs != 0:
		return conntrack.TCPFinWait
	case r.Confirmed():
		return conntrack.TCPEstablished
	case r.State&bpf.StateAnswered != 0:
		return conntrack.TCPSynRecv
	}
	return conntrack.TCPSynSent
}

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

// Handover moves the flows of a datapath into the kernel's table of connections, which goes on
// translating them when the datapath is gone. It needs the pin directory, so no agent may run.
//
// Most flows are not in that table: they pass the node's stack translated, or not at all. Handover makes
// an entry, and then ends the flow's records, so that its packets are left to the stack. No new flow
// opens, since there are no frontends.
type Handover struct {
	dp    *loader.Datapath
	table *conntrack.Table
	guard *guard

	Given int   // flows
	Why   error // why the first of those that failed did
}

// NewHandover begins a handover: from now on the datapath opens no flow for a service. Close removes
// what it has written into netfilter, except what ReleaseNAT removes.
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

// Close ends the handover, and removes what it has written into netfilter.
func (h *Handover) Close() error { return errors.Join(h.guard.remove(), h.table.Close()) }

// withdraw removes all frontends from the datapath. It first removes the ranges of cluster IPs: without
// frontends the datapath would refuse packets to all addresses in them.
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

// Left counts the flows that the datapath still translates.
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

// isOurs reports whether a record is a client's, and its flow is translated by the datapath and still
// open.
func isOurs(r maps.Flow) bool {
	const others = bpf.FlowReply | bpf.FlowSplitSource | bpf.FlowForeign
	return r.Flags&others == 0 && !r.Closed() && (r.To.Src != r.Key.Src || r.To.Dst != r.Key.Dst)
}

// bypasses reports whether netfilter sees neither the client's packets nor the answers with the tuples
// that they have outside of the datapath.
func bypasses(r maps.Flow) bool { return r.Flags&(bpf.FlowExpress|bpf.FlowSplit) != 0 }

// movedAtOnce is how many flows are without a translator while one of them is moved.
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

var errSCTP = errors.New("the kernel takes no SCTP association that it has not seen begin")

// giveBypassing makes the kernel's entry before the records end. No packet matches the entry until then.
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
	return h.leave(append(r.Others(), r)...) // else an answer would make the client's record again
}

// move hands over flows whose translated packets the kernel tracks already: that entry has to go first.
// Meanwhile the guard drops packets in both directions; their senders send them again.
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

// moveOne ends the client's record before the kernel has its entry, and the answers' record after it.
// Until then answers are translated where they leave, and from then on before.
func (h *Handover) moveOne(r maps.Flow) error {
	if r.Key.Proto == unix.IPPROTO_SCTP {
		return errSCTP
	}
	e, err := h.trackedEntry(r)
	if err != nil {
		return err
	}
	if !r.Confirmed() { // else an answer would make the client's record again
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
	// A flow that has only got another source port, behind netfilter.
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
		e.Reply = tracked.Reply // may be to an address that others have given the client
	default:
		return e, nil
	}
	e.State, e.Mark, e.Timeout = tracked.State, tracked.Mark, tracked.Timeout
	return e, nil
}

// createTries bounds how often an entry that a packet has just made is removed.
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

// How long the kernel keeps an entry without packets. The first packet sets the timeout anew.
const (
	establishedTimeout = 5 * 24 * time.Hour // nf_conntrack_tcp_timeout_established
	otherTimeout       = 2 * time.Minute    // of TCP's other states, and UDP streams
)

// kernelEntry is the entry that the kernel would have if it had opened the flow.
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

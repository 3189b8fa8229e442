// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/maps"
)

// The kernel sends events of the end of an entry only if a program listened when it was made (nf_conntrack_events=2,
// Linux 5.19). So entries that are older than the agent end without an event, and the agent has to look.
const (
	// followEvery is the longest interval between looks. It bounds how long a packet finds a record whose entry was
	// deleted.
	followEvery = 5 * time.Second
	// followSoonest is the shortest interval, when an entry is about to expire.
	followSoonest = 500 * time.Millisecond
	// followFirst is the delay of the first look at records that an earlier agent has left: it comes after the
	// busiest part of a start.
	followFirst = time.Second
	// followDuty bounds the cost of looks: 1/followDuty of a CPU.
	followDuty = 20
	// refreshAfter is the age at which a record is refreshed. It is shorter than any timeout of an open connection.
	refreshAfter = 15 * time.Second
)

// Run keeps adopted records in step with the kernel's table until ctx is done.
func (t *Takeover) Run(ctx context.Context) {
	if t.table == nil {
		return
	}
	again := time.After(followFirst)
	left := 0
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.adopted:
		case <-again:
		}
		began := time.Now()
		expires := followEvery
		if left > 0 || t.hasAdopted() {
			left, expires = t.follow()
		}
		if again = nil; left > 0 {
			wait := max(min(expires, followEvery), followSoonest, followDuty*time.Since(began))
			again = time.After(wait)
		}
	}
}

// hasAdopted reports whether there may be adopted records. The kernel counts them in a third of the time that it
// takes to read the tables.
func (t *Takeover) hasAdopted() bool {
	for _, family := range maps.Families {
		if census, err := t.dp.Expire(family == maps.IPv6); err != nil || census.Foreign > 0 {
			return true
		}
	}
	return false
}

// follow looks at each adopted record. It returns how many are left, and the time until the first of their entries
// may expire.
func (t *Takeover) follow() (left int, expires time.Duration) {
	f := follower{t: t, expires: followEvery, virtual: virtuals{each: t.virtual}}
	now, hz, err := t.dp.Jiffies()
	if err != nil {
		t.log.WithError(err).Error("adopted connections are not followed")
		return 1, followEvery // not known: assume one
	}
	f.now, f.refresh = now, int32(refreshAfter.Seconds()*float64(hz))
	for _, family := range maps.Families {
		f.note(maps.Foreign(t.dp, family, func(r maps.Flow) { f.note(f.look(r)) }))
	}
	if f.failed > 0 {
		t.log.WithError(f.failure).Errorf("%d adopted records can't be followed, the first for this", f.failed)
	}
	if f.ended > 0 {
		t.log.WithField("records", f.ended).Debug("adopted connections have ended in the kernel's table")
	}
	return f.left + f.failed, f.expires
}

// follower is one look at all adopted records.
type follower struct {
	t       *Takeover
	now     uint32 // jiffies
	refresh int32  // refreshAfter, in jiffies
	expires time.Duration

	left, ended, failed int
	failure             error

	// The last tuple that was looked up: the records of a direction, one for each zone, are next to each other in
	// the table.
	asked conntrack.Tuple
	proto uint8
	entry conntrack.Entry
	err   error

	virtual virtuals
}

func (f *follower) note(err error) {
	if err == nil {
		return
	}
	if f.failed++; f.failure == nil {
		f.failure = err
	}
}

// look updates one record from the kernel's entry of its tuple.
func (f *follower) look(r maps.Flow) error {
	entry, err := f.followed(r)
	switch {
	case errors.Is(err, conntrack.ErrNotFound):
		return f.end(r)
	case err != nil:
		return err
	case !describes(r, entry):
		return f.replace(r, entry)
	case r.Closed() && isOpen(entry):
		return f.replace(r, entry)
	}
	f.left++
	if entry.Timeout+time.Second < f.expires { // the kernel's timeouts are whole seconds
		f.expires = entry.Timeout + time.Second
	}
	state := stateOf(entry)
	if r.State&state == state && (r.Closed() || int32(f.now-r.LastSeen) < f.refresh) {
		return nil
	}
	r.State = state
	_, err = f.t.dp.Follow(r.Adoption())
	return err
}

func (f *follower) get(tuple conntrack.Tuple, proto uint8) (conntrack.Entry, error) {
	if tuple != f.asked || proto != f.proto {
		f.asked, f.proto = tuple, proto
		f.entry, f.err = f.t.table.Get(tuple, proto)
		if f.err != nil && !errors.Is(f.err, conntrack.ErrNotFound) {
			f.err = fmt.Errorf("protocol %d, %s: %w", proto, tuple, f.err)
		}
	}
	return f.entry, f.err
}

// describes reports whether a record stands for the same translation as an entry.
func describes(r maps.Flow, e conntrack.Entry) bool {
	key, to := conntrack.Tuple{Src: r.Key.Src, Dst: r.Key.Dst}, conntrack.Tuple{Src: r.To.Src, Dst: r.To.Dst}
	if r.Flags&bpf.FlowReply != 0 {
		return key == e.Reply && to == e.Orig.Reversed()
	}
	return key == e.Orig && to == e.Reply.Reversed()
}

// isOpen reports whether no side has begun to end a connection.
func isOpen(e conntrack.Entry) bool { return stateOf(e)&(bothFINs|bpf.StateReset) == 0 }

// end ends a record whose entry is gone: the next packet opens a flow of ours.
func (f *follower) end(r maps.Flow) error {
	f.ended++
	_, err := f.t.dp.Leave(r.Adoption())
	return err
}

// replace adopts the kernel's present entry of the tuple of an adopted connection. kube-proxy's rules may have led a
// new connection from the same port to another endpoint.
func (f *follower) replace(r maps.Flow, e conntrack.Entry) error {
	if err := f.end(r); err != nil || !isServed(e) || isEnding(e) {
		return err
	}
	made, err := adoptAll(f.t.dp, foreign(e))
	f.left += made
	return err
}

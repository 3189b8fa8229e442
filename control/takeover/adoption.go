// SPDX-License-Identifier: Apache-2.0

package takeover

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/control/conntrack"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// adoption makes records of the connections that the kernel has had since before the agent: those that it
// translates, and the node's own from ports that flows of ours use, too.
type adoption struct {
	dp      *loader.Datapath
	shared  func(netip.AddrPort) bool // see SharedPorts; nil: not known
	room    map[maps.Family]int       // in records; counted when the first record is to be made
	adopted int                       // connections that the kernel translates, and that had no records before
	leftOut int                       // for want of room
	failed  int
	failure error // the first failure
}

// run adopts the entries of the kernel's table.
func (a *adoption) run(table *conntrack.Table) error {
	bad, err := table.Each(unix.AF_UNSPEC, 0, a.take)
	if bad > 0 {
		err = errors.Join(err, fmt.Errorf("%d entries of the kernel's table can't be understood", bad))
	}
	return errors.Join(err, a.failures())
}

// failures joins the errors with connections.
func (a *adoption) failures() error {
	if a.failed == 0 {
		return nil
	}
	return fmt.Errorf("%d connections, the first of which is %w", a.failed, a.failure)
}

func (a *adoption) fail(e conntrack.Entry, err error) {
	if a.failed++; a.failure == nil {
		a.failure = fmt.Errorf("%s: %w", e, err)
	}
}

// hasRoom reports whether so many more records of a family may be made. Adopted records may take half of the
// table; the rest is for flows that open later. A count of the existing records takes a walk. Most nodes have
// nothing to adopt, and skip it.
func (a *adoption) hasRoom(f maps.Family, records int) (bool, error) {
	if _, counted := a.room[f]; !counted {
		census, err := a.dp.Expire(f == maps.IPv6)
		if err != nil {
			return false, err
		}
		if a.room == nil {
			a.room = map[maps.Family]int{}
		}
		half := a.dp.Map(fmt.Sprintf("flows%d", f)).MaxEntries() * bpf.Ways / 2
		a.room[f] = int(half) - int(census.Confirmed+census.Unconfirmed)
	}
	return records <= a.room[f], nil
}

// take adopts one entry. If that fails, the others are still adopted.
func (a *adoption) take(e conntrack.Entry) {
	var records []maps.Flow
	switch {
	case isEnding(e):
		return
	case isServed(e):
		records = foreign(e)
	case isOwn(e, a.shared):
		records = own(e)
	default:
		return
	}
	family := maps.FamilyOf(e.Orig.Src.Addr())
	fits, err := a.dp.Follow(records[0].Adoption()) // it has records already
	if err == nil && !fits {
		fits, err = a.hasRoom(family, len(records))
	}
	made := 0
	if err == nil && fits {
		made, err = adoptAll(a.dp, records)
	}
	if _, counted := a.room[family]; counted {
		a.room[family] -= made
	}
	switch {
	case err == nil && !fits:
		a.leftOut++
	case errors.Is(err, unix.ENOSPC): // in the sets that the records may be in
		a.leftOut++
	case err != nil:
		a.fail(e, err)
	case made > 0 && isServed(e):
		a.adopted++
	}
}

// adoptAll makes those records that do not exist yet.
func adoptAll(dp *loader.Datapath, records []maps.Flow) (made int, err error) {
	for _, r := range records {
		added, err := dp.Adopt(r.Adoption())
		if err != nil {
			return made, err
		}
		if added {
			made++
		}
	}
	return made, nil
}

// isServed reports whether a connection may be one to a service: its destination is translated, and Services
// have its protocol.
func isServed(e conntrack.Entry) bool {
	return conntrack.Known(e.Proto) && e.Zone == 0 && e.Translated()
}

// soonGone is the remaining time at which an entry counts as gone: its record would end at once, too.
const soonGone = 2 * time.Second

// isEnding reports whether the connection of an entry has ended, or is about to.
func isEnding(e conntrack.Entry) bool {
	if e.Timeout < soonGone {
		return true
	}
	switch e.Proto {
	case unix.IPPROTO_TCP:
		return e.State == conntrack.TCPTimeWait || e.State == conntrack.TCPClose
	case unix.IPPROTO_SCTP:
		return e.State == conntrack.SCTPClosed
	}
	return false
}

// stateOf converts an entry's state to a record's. The record is always confirmed: unconfirmed records give
// way to others. The kernel does not report which side has sent the first FIN; this does not matter before the
// second.
func stateOf(e conntrack.Entry) uint32 {
	const open = bpf.StateAnswered | bpf.StateConfirmed
	switch e.Proto {
	case unix.IPPROTO_TCP:
		return open | tcpStates[e.State]
	case unix.IPPROTO_SCTP:
		return open | sctpStates[e.State]
	}
	return open
}

const bothFINs = bpf.StateFinClient | bpf.StateFinBackend

var tcpStates = map[uint8]uint32{
	conntrack.TCPFinWait: bpf.StateFinClient, conntrack.TCPCloseWait: bpf.StateFinClient,
	conntrack.TCPLastAck: bothFINs, conntrack.TCPTimeWait: bothFINs, conntrack.TCPClose: bpf.StateReset,
}

var sctpStates = map[uint8]uint32{
	conntrack.SCTPShutdownSent: bpf.StateFinClient, conntrack.SCTPShutdownRecd: bpf.StateFinClient,
	conntrack.SCTPShutdownAckSent: bothFINs, conntrack.SCTPClosed: bpf.StateReset,
}

// foreign makes the records of both directions. The kernel's table does not say whether the packets come in
// from outside or from a pod, so there is a pair for each. If the reply's destination is an address of ours,
// its record keeps us from using its port for another flow to the same backend.
func foreign(e conntrack.Entry) []maps.Flow {
	state := stateOf(e)
	var records []maps.Flow
	for _, zone := range []bpf.Zone{bpf.ZoneOutside, bpf.ZonePod} {
		tuple := func(t conntrack.Tuple) maps.Tuple {
			return maps.Tuple{Src: t.Src, Dst: t.Dst, Proto: e.Proto, Zone: zone}
		}
		flags := bpf.FlowForeign | uint16(zone)*bpf.FlowMirrorZone
		records = append(records,
			maps.Flow{Key: tuple(e.Orig), To: tuple(e.Reply.Reversed()), State: state, Flags: flags},
			maps.Flow{Key: tuple(e.Reply), To: tuple(e.Orig.Reversed()), State: state, Flags: flags | bpf.FlowReply})
	}
	return records
}

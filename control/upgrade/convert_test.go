// SPDX-License-Identifier: Apache-2.0

package upgrade

import (
	"testing"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

// The ends of flows in these tests.
const (
	outside = 1 + iota // a client that is no pod of this node
	pod                // a client that is one
	other              // an endpoint on another node
	local              // an endpoint on this node
	front              // the frontend
	node               // the source that the client's packets get
)

func zoneOf(a bpf.Addr) bpf.Zone {
	if a.Word[0] == pod || a.Word[0] == local {
		return bpf.ZonePod
	}
	return bpf.ZoneOutside
}

func tupleOf(src, sport, dst, dport uint16) bpf.Tuple {
	t := bpf.Tuple{Sport: sport, Dport: dport, Proto: unix.IPPROTO_TCP}
	t.Saddr.Word[0], t.Daddr.Word[0] = uint32(src), uint32(dst)
	return t
}

// old is a record of the flow from a client's port 1000 to port 80 of the frontend. The endpoint
// sees it on its port 8080, from port 2000 of `seen`.
func old(client, backend, seen uint16, flags uint16) record {
	r := record{family: unix.AF_INET, flags: flags, service: 11, backend: 12, lastSeen: 13, expect: 14, state: bpf.StateConfirmed}
	r.key, r.to = tupleOf(client, 1000, front, 80), tupleOf(seen, 2000, backend, 8080)
	switch {
	case flags&oldSplitSource != 0:
		r.key, r.egress = tupleOf(client, 2000, backend, 8080), true
	case flags&oldReply != 0:
		r.key, r.to = tupleOf(backend, 8080, seen, 2000), tupleOf(front, 80, client, 1000)
		r.egress = flags&(oldExpress|oldForeign) == 0
	}
	return r
}

// TestConvertWays: the conversion of each record of each path.
func TestConvertWays(t *testing.T) {
	const outsideMirror, podMirror, leavingMirror = 0, bpf.FlowMirrorZone, 2 * bpf.FlowMirrorZone
	type want struct {
		zone  bpf.Zone
		flags uint16
	}
	for _, test := range []struct {
		name string
		old  record
		want []want
	}{
		{"express, client", old(outside, other, node, oldExpress|32|128), []want{{bpf.ZoneOutside, bpf.FlowExpress | outsideMirror}}},
		{"express, backend", old(outside, other, node, oldExpress|oldReply), []want{{bpf.ZoneOutside, bpf.FlowExpress | bpf.FlowReply | outsideMirror}}},
		{"stack, client outside", old(outside, local, outside, oldMirrorEgress), []want{{bpf.ZoneOutside, leavingMirror}}},
		{"stack, its backend", old(outside, local, outside, oldReply), []want{{bpf.ZoneLeaving, bpf.FlowReply | outsideMirror}}},
		{"stack, client a pod", old(pod, other, pod, oldMirrorEgress), []want{{bpf.ZonePod, leavingMirror}}},
		{"stack, its backend", old(pod, other, pod, oldReply), []want{{bpf.ZoneLeaving, bpf.FlowReply | podMirror}}},
		{"split to another node, client a pod", old(pod, other, node, oldSplit), []want{{bpf.ZonePod, bpf.FlowSplit | outsideMirror}}},
		{"split to another node, source", old(pod, other, node, oldSplitSource), []want{{bpf.ZoneLeaving, bpf.FlowSplitSource | outsideMirror}}},
		{"split to another node, backend", old(pod, other, node, oldReply|oldExpress|oldSplit), []want{{bpf.ZoneOutside, bpf.FlowReply | bpf.FlowExpress | bpf.FlowSplit | podMirror}}},
		{"split to this node, client outside", old(outside, local, node, oldSplit), []want{{bpf.ZoneOutside, bpf.FlowSplit | podMirror}}},
		{"split to this node, source", old(outside, local, node, oldSplitSource), []want{{bpf.ZoneLeaving, bpf.FlowSplitSource | podMirror}}},
		{"split to this node, backend", old(outside, local, node, oldReply|oldExpress|oldSplit), []want{{bpf.ZonePod, bpf.FlowReply | bpf.FlowExpress | bpf.FlowSplit | outsideMirror}}},
		{"turn, client", old(pod, pod, node, oldSplit), []want{{bpf.ZonePod, bpf.FlowExpress | bpf.FlowTurn | podMirror}}},
		{"turn, source", old(pod, pod, node, oldSplitSource), nil},
		{"turn, backend", old(pod, pod, node, oldReply|oldExpress|oldSplit), []want{{bpf.ZonePod, bpf.FlowReply | bpf.FlowExpress | bpf.FlowTurn | podMirror}}},
		{"outside to itself, client", old(outside, outside, node, oldSplit), []want{{bpf.ZoneOutside, bpf.FlowExpress | outsideMirror}}},
		{"outside to itself, source", old(outside, outside, node, oldSplitSource), nil},
		{"outside to itself, backend", old(outside, outside, node, oldReply|oldExpress|oldSplit), []want{{bpf.ZoneOutside, bpf.FlowReply | bpf.FlowExpress | outsideMirror}}},
		{"foreign, client", old(outside, other, node, oldForeign), []want{{bpf.ZoneOutside, bpf.FlowForeign | outsideMirror}, {bpf.ZonePod, bpf.FlowForeign | podMirror}}},
		{"foreign, backend", old(outside, other, node, oldForeign|oldReply), []want{
			{bpf.ZoneOutside, bpf.FlowForeign | bpf.FlowReply | outsideMirror}, {bpf.ZonePod, bpf.FlowForeign | bpf.FlowReply | podMirror}}},
	} {
		got := convert(test.old, zoneOf)
		if len(got) != len(test.want) {
			t.Errorf("%s: %d records, want %d", test.name, len(got), len(test.want))
			continue
		}
		for i, w := range test.want {
			c := bpf.Conversion{
				Key: test.old.key, To: test.old.to, Family: unix.AF_INET, State: bpf.StateConfirmed,
				Service: 11, Backend: 12, LastSeen: 13, Expect: 14, Flags: w.flags,
			}
			c.Key.Zone, c.To.Zone = uint8(w.zone), uint8(w.zone)
			if got[i] != c {
				t.Errorf("%s: got %+v, want %+v", test.name, got[i], c)
			}
		}
	}
}

// TestMirrors: each record is the mirror of the other of its flow, on every path.
func TestMirrors(t *testing.T) {
	for name, flow := range map[string]struct {
		client, backend, seen uint16
		flags, reply          uint16
	}{
		"express":         {outside, other, node, oldExpress, oldExpress | oldReply},
		"stack":           {outside, local, outside, oldMirrorEgress, oldReply},
		"stack, from pod": {pod, local, pod, oldMirrorEgress, oldReply},
		"split":           {pod, local, node, oldSplit, oldReply | oldExpress | oldSplit},
		"turn":            {pod, pod, node, oldSplit, oldReply | oldExpress | oldSplit},
	} {
		client := convert(old(flow.client, flow.backend, flow.seen, flow.flags), zoneOf)[0]
		reply := convert(old(flow.client, flow.backend, flow.seen, flow.reply), zoneOf)[0]
		for _, pair := range [][2]bpf.Conversion{{client, reply}, {reply, client}} {
			if zone := pair[0].Flags & bpf.FlowMirrorZoneMask / bpf.FlowMirrorZone; zone != uint16(pair[1].Key.Zone) {
				t.Errorf("%s: the record %+v leads to the zone %d, and the other is %+v", name, pair[0], zone, pair[1])
			}
			if pair[0].To.Saddr != pair[1].Key.Daddr || pair[0].To.Dport != pair[1].Key.Sport {
				t.Errorf("%s: the records %+v and %+v are not each other's", name, pair[0], pair[1])
			}
		}
	}
}

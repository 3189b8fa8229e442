// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
)

// found reports whether there is a valid record of the packet's tuple.
func found(trace *loader.Trace) bool {
	if opened(trace) || !understood(trace) {
		return false
	}
	if bpf.Zone(trace.Packet.Tuple.Zone) == bpf.ZoneLeaving {
		return trace.Verdict == bpf.VerdictSource
	}
	return trace.Notes.Steps&bpf.TraceService == 0
}

func opened(trace *loader.Trace) bool { return slices.Contains(trace.Events, bpf.VerdictFlowOpened) }

func (t *report) flow(trace *loader.Trace) error {
	switch {
	case t.recorded:
		t.step("flow", "the record that %s has made", hookXDP)
	case found(trace):
		words, err := t.recordWords(trace.Record, trace)
		if err != nil {
			return err
		}
		t.step("flow", "%s", words)
	case trace.Notes.Steps&bpf.TraceEnded != 0:
		words, err := t.recordWords(trace.Notes.Ended, trace)
		if err != nil {
			return err
		}
		t.step("flow", "%s; it no longer counts: %s", words, t.endedWords(trace))
	default:
		t.step("flow", "no record of this tuple")
	}
	return nil
}

// recordWords describes a record: its flow, its age and its rewrite.
func (t *report) recordWords(r bpf.Record, trace *loader.Trace) (string, error) {
	to := maps.DecodeTuple(familyOf(trace), r.To)
	side := "the client's record of"
	if r.Flags&bpf.FlowReply != 0 {
		side = "the backend's record of"
	}
	whose := "a connection that is no service's"
	if r.Flags&bpf.FlowForeign != 0 {
		side, whose = "the record of", "a connection of another translator"
	} else if r.Service != 0 {
		name, err := t.serviceName(r.Service)
		if err != nil {
			return "", err
		}
		whose = "a flow of " + name
	} else {
		side = "the record of"
	}
	idle := time.Duration(max(int32(r.Time-r.LastSeen), 0)) * time.Second / time.Duration(t.hz)
	return fmt.Sprintf("%s %s, way %s, %s, last packet %s ago, rewrites to %s -> %s", side, whose, wayOf(r.Flags),
		stateWords(r.Tag), idle.Round(time.Second), to.Src, to.Dst), nil
}

func stateWords(tag uint32) string {
	switch {
	case tag&bpf.StateReset != 0:
		return "reset"
	case tag&bpf.StateFinClient != 0 && tag&bpf.StateFinBackend != 0:
		return "closed"
	case tag&(bpf.StateFinClient|bpf.StateFinBackend) != 0:
		return "half closed"
	case tag&bpf.StateConfirmed != 0:
		return "confirmed"
	case tag&bpf.StateAnswered != 0:
		return "answered"
	}
	return "not answered yet"
}

func (t *report) endedWords(trace *loader.Trace) string {
	r := trace.Notes.Ended
	closed := r.Tag&bpf.StateReset != 0 || r.Tag&bpf.StateFinClient != 0 && r.Tag&bpf.StateFinBackend != 0
	if closed && trace.Packet.TcpFlags&tcpFlags["syn"] != 0 {
		return "the connection was closed, and this packet begins one anew"
	}
	if int32(r.Time-r.LastSeen) > int32(t.timeout(r.Tag, trace.Packet.Tuple.Proto)) {
		return "it is past its time"
	}
	return "what goes with it is another flow's"
}

// timeout is how long a record outlives its last packet, in jiffies: flow_timeout() in bpf/flow.h.
func (c *constants) timeout(tag uint32, proto uint8) uint32 {
	fins := bpf.StateFinClient | bpf.StateFinBackend
	switch {
	case proto == unix.IPPROTO_UDP && tag&bpf.StateAnswered != 0:
		return c.udp
	case proto == unix.IPPROTO_UDP:
		return c.unanswered
	case tag&bpf.StateReset != 0:
		return c.reset
	case tag&fins == fins:
		return c.closed
	case tag&bpf.StateConfirmed == 0:
		return c.unanswered
	case tag&fins != 0:
		return c.halfClosed
	}
	return c.tcp
}

func wayOf(flags uint16) string {
	switch {
	case flags&bpf.FlowForeign != 0:
		return "foreign"
	case flags&(bpf.FlowSplit|bpf.FlowSplitSource) != 0:
		return "split"
	case flags&bpf.FlowTurn != 0:
		return "turn"
	case flags&bpf.FlowExpress != 0:
		return "express"
	}
	return "stack"
}

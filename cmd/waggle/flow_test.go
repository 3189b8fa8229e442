// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"testing"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/maps"
)

func TestFlowPath(t *testing.T) {
	for flags, want := range map[uint16]string{
		0:                                  "stack",
		bpf.FlowReply:                      "stack reply",
		bpf.FlowExpress:                    "express",
		bpf.FlowExpress | bpf.FlowReply:    "express reply",
		bpf.FlowExpress | bpf.FlowTurn:     "turn",
		bpf.FlowSplit:                      "split",
		bpf.FlowSplit | bpf.FlowReply:      "split reply",
		bpf.FlowSplitSource:                "split source",
		bpf.FlowReply | bpf.FlowMirrorZone: "stack reply",
		bpf.FlowForeign:                    "foreign",
		bpf.FlowForeign | bpf.FlowReply:    "foreign reply",
	} {
		if got := flowPath(flags); got != want {
			t.Errorf("flags %#x: got %q, want %q", flags, got, want)
		}
	}
}

func TestFlowState(t *testing.T) {
	if got := flowState(0); got == nil || len(got) > 0 {
		t.Errorf("no state: %#v, want an empty list", got)
	}
	all := bpf.StateAnswered | bpf.StateConfirmed | bpf.StateFinClient | bpf.StateFinBackend | bpf.StateReset
	if got, want := flowState(all), []string{"answered", "confirmed", "fin-client", "fin-backend", "reset"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestFlowIdle(t *testing.T) {
	for _, c := range []struct {
		now, seen uint32
		want      string
	}{
		{1000, 1000, "0s"}, {1250, 1000, "1s"}, {25000*60 + 7, 7, "1h40m0s"},
		{1000, 1001, "0s"},       // a packet came after we read the clock
		{100, 1<<32 - 150, "1s"}, // the clock wraps
	} {
		if got := viewFlow(maps.Flow{LastSeen: c.seen}, maps.Name{}, c.now, 250).Idle; got != c.want {
			t.Errorf("now %d, seen %d: got %s, want %s", c.now, c.seen, got, c.want)
		}
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"errors"
	"math"
	"net/netip"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
)

// oneSet makes flows_new as small as can be: eight records.
var oneSet = setting{"flows_new:1", func(spec *ebpf.CollectionSpec) error {
	spec.Maps["flows_new4"].MaxEntries, spec.Maps["flows_new6"].MaxEntries = 1, 1
	return nil
}}

// TestNewFlowsGiveWay: where there is no room, a new flow takes the places of those that nobody has
// asked for since they were made.
func TestNewFlowsGiveWay(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		conv := converse(newNode(t, oneSet), v, sameDevice)
		var all []*conversation
		for range 4 {
			conv.request()
			all = append(all, conv)
			conv = conv.again()
		}
		equal(t, "records", int(bpf.Ways), conv.size(pending, v))
		all[0].request()
		all[2].request()
		conv.request()
		equal(t, "records", int(bpf.Ways), conv.size(pending, v))
		for _, c := range []*conversation{all[0], all[2], conv} {
			c.standsIn(pending)
		}
		_, second := all[1].lookup(pending, all[1].clientKey())
		_, last := all[3].lookup(pending, all[3].clientKey())
		if second == last {
			t.Errorf("both of the flows that nobody has asked for stay, or none: %t", last)
		}
	})
}

// TestNewFlowsAtOnce: two processors that open the same flows at the same time, and compete for
// four ports, leave no record twice, and none half written.
func TestNewFlowsAtOnce(t *testing.T) {
	const flows = 60_000
	n := newNode(t, variable("snat_max", uint16(snatMin+3)))
	v := variants[0]
	c := converse(n, v, sameDevice)
	program := n.program("waggle_xdp")
	var at [2]atomic.Int32
	errs := make(chan error)
	for i := range at {
		go func() { errs <- c.openInStep(program, flows, &at[i], &at[1-i]) }()
	}
	if err := errors.Join(<-errs, <-errs); err != nil {
		t.Fatal(err)
	}
	keys, _, err := n.tables[family(pending, v.client)].contents()
	if err != nil || len(keys) < int(bpf.Ways) {
		t.Fatalf("%d records: %v", len(keys), err)
	}
	seen := map[string]bool{}
	for _, key := range keys {
		if seen[string(key)] {
			t.Errorf("two records of %v", tupleOfKey(key))
		}
		seen[string(key)] = true
	}
	if err := n.tables[family(pending, v.client)].(setTable).idle(); err != nil {
		t.Error(err)
	}
}

// openInStep sends each flow's first packet through XDP when the other is as far.
func (c *conversation) openInStep(program *ebpf.Program, flows int, mine, other *atomic.Int32) error {
	if err := join(); err != nil {
		return err
	}
	for i := range flows {
		client := netip.AddrPortFrom(c.client.Addr(), uint16(1024+i))
		p := c.packet(client, c.frontend)
		frame := p.with(macs(p.ethSrc, front.mac())).bytes()
		opts := &ebpf.RunOptions{Data: frame, Context: xdpContext(front, frame), Repeat: 1}
		mine.Store(int32(i))
		for other.Load() < int32(i) {
			runtime.Gosched()
		}
		if _, err := program.Run(opts); err != nil {
			mine.Store(math.MaxInt32) // so that nobody waits
			return err
		}
	}
	mine.Store(math.MaxInt32)
	return nil
}

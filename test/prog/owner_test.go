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

// TestOneOwner: two processors that open the same flows at the same time, and compete for four
// ports, leave no record twice, and none half written.
func TestOneOwner(t *testing.T) {
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
	records := c.contents()
	if len(records) < int(bpf.Ways) {
		t.Fatalf("%d records", len(records))
	}
	seen := map[tuple]bool{}
	for _, r := range records {
		if seen[r.key] {
			t.Errorf("two records of %v", r.key)
		}
		seen[r.key] = true
	}
	n.settled(v)
}

// openInStep sends each flow's first packet through XDP when the other processor has got as far.
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
			mine.Store(math.MaxInt32) // the other must not wait
			return err
		}
	}
	mine.Store(math.MaxInt32)
	return nil
}

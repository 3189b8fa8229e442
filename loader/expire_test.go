// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"math"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
)

func TestTickRate(t *testing.T) {
	newNetns(t)
	d := mustLoad(t, small(newPinDir(t)))
	first, hz, err := d.Jiffies()
	must(t, err)
	start := time.Now()
	time.Sleep(500 * time.Millisecond)
	second, _, err := d.Jiffies()
	must(t, err)
	measured := float64(second-first) / time.Since(start).Seconds()
	if math.Abs(measured-float64(hz)) > 0.1*float64(hz) {
		t.Errorf("jiffies advance %.1f times a second, but hz is %d", measured, hz)
	}
}

// A stack flow, and how long ago each half was seen.
type testFlow struct {
	client         uint32
	forward, reply time.Duration
}

const service, backend = 100, 200

func (f testFlow) put(t *testing.T, d *Datapath) {
	t.Helper()
	now, hz, err := d.Jiffies()
	must(t, err)
	ago := func(age time.Duration) uint32 { return now - uint32(age.Seconds()*float64(hz)) }
	head := bpf.Flow{State: bpf.StateAnswered | bpf.StateConfirmed}
	forward, reply := head, head
	forward.LastSeen, forward.Flags = ago(f.forward), bpf.FlowMirrorEgress
	forward.Sport, forward.Dport = 1, 3
	reply.LastSeen, reply.Flags = ago(f.reply), bpf.FlowReply
	reply.Sport, reply.Dport = 2, 1
	flows := d.Map("flows4")
	must(t, flows.Put(f.forwardKey(), bpf.Flow4{Flow: forward, Saddr: f.client, Daddr: backend}))
	must(t, flows.Put(f.replyKey(), bpf.Flow4{Flow: reply, Saddr: service, Daddr: f.client}))
}

func (f testFlow) forwardKey() bpf.FlowKey4 {
	return bpf.FlowKey4{Saddr: f.client, Daddr: service, Sport: 1, Dport: 2, Proto: unix.IPPROTO_TCP}
}

func (f testFlow) replyKey() bpf.FlowKey4 {
	return bpf.FlowKey4{Saddr: backend, Daddr: f.client, Sport: 3, Dport: 1, Proto: unix.IPPROTO_TCP, Egress: 1}
}

func TestExpire(t *testing.T) {
	newNetns(t)
	opts := small(newPinDir(t))
	opts.Timeouts.TCP = 10 * time.Second
	d := mustLoad(t, opts)
	const fresh, stale = time.Second, time.Minute
	kinds := []struct {
		forward, reply time.Duration
		lives          bool
	}{
		{fresh, fresh, true},
		{stale, stale, false},
		{fresh, stale, true}, // a stream may run one way for hours
		{stale, fresh, true},
	}
	const each = 200
	var flows []testFlow
	for i := range uint32(each * len(kinds)) {
		kind := kinds[i%uint32(len(kinds))]
		flow := testFlow{1000 + i, kind.forward, kind.reply}
		flow.put(t, d)
		flows = append(flows, flow)
	}
	census, err := d.Expire(false)
	must(t, err)
	if census.Live != 6*each || census.Expired != 2*each {
		t.Errorf("census: %+v, want %d live, %d expired", census, 6*each, 2*each)
	}
	for i, flow := range flows {
		var value bpf.Flow4
		forward := d.Map("flows4").Lookup(flow.forwardKey(), &value) == nil
		reply := d.Map("flows4").Lookup(flow.replyKey(), &value) == nil
		if lives := kinds[i%len(kinds)].lives; forward != lives || reply != lives {
			t.Fatalf("flow seen %v and %v ago: forward %v, reply %v, want %v",
				flow.forward, flow.reply, forward, reply, lives)
		}
	}
	if census, err := d.Expire(true); err != nil || census.Live != 0 || census.Expired != 0 {
		t.Errorf("IPv6: %+v, %v, want an empty table", census, err)
	}
}

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

// testFlow is a stack flow, with the time since each of its records was seen.
type testFlow struct {
	client         uint32
	forward, reply time.Duration
}

const service, backend = 100, 200

// put records the flow in the way that the agent does, and ages its records in place.
func (f testFlow) put(t *testing.T, d *Datapath) {
	t.Helper()
	state := bpf.StateAnswered | bpf.StateConfirmed
	forward := bpf.Adoption{Key: f.forwardKey(), Family: unix.AF_INET, State: state, Flags: uint16(bpf.ZoneLeaving) * bpf.FlowMirrorZone}
	forward.To = tupleOf(f.client, backend, 1, 3, bpf.ZoneOutside)
	reply := bpf.Adoption{Key: f.replyKey(), Family: unix.AF_INET, State: state, Flags: bpf.FlowReply}
	reply.To = tupleOf(service, f.client, 2, 1, bpf.ZoneLeaving)
	for _, a := range []bpf.Adoption{forward, reply} {
		added, err := d.Adopt(a)
		must(t, err)
		if !added {
			t.Fatalf("%+v is there already", a.Key)
		}
		if added, err := d.Adopt(a); err != nil || added {
			t.Fatalf("%+v is recorded twice: %v", a.Key, err)
		}
	}
}

func tupleOf(src, dst uint32, sport, dport uint16, zone bpf.Zone) bpf.Tuple {
	return bpf.Tuple{
		Saddr: bpf.Addr{Word: [4]uint32{src}}, Daddr: bpf.Addr{Word: [4]uint32{dst}},
		Sport: sport, Dport: dport, Proto: unix.IPPROTO_TCP, Zone: uint8(zone),
	}
}

func (f testFlow) forwardKey() bpf.Tuple { return tupleOf(f.client, service, 1, 2, bpf.ZoneOutside) }
func (f testFlow) replyKey() bpf.Tuple   { return tupleOf(backend, f.client, 3, 1, bpf.ZoneLeaving) }

// eachRecord calls fn with each LIVE record of flows4, which fn may change.
func eachRecord(t *testing.T, d *Datapath, fn func(*bpf.Flow4)) {
	t.Helper()
	m := d.Map("flows4")
	for i := range m.MaxEntries() {
		var set bpf.FlowSet4
		must(t, m.Lookup(i, &set))
		was := set
		for way, tag := range set.Ways.Tag {
			if tag&bpf.WayMask == bpf.WayLive {
				fn(&set.At[way])
			}
		}
		if set != was {
			must(t, m.Put(i, set))
		}
	}
}

func TestExpire(t *testing.T) {
	newNetns(t)
	opts := small(newPinDir(t))
	opts.Timeouts.TCP = 10 * time.Second
	d := mustLoad(t, opts)
	now, hz, err := d.Jiffies()
	must(t, err)
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
	age := map[bpf.Tuple]time.Duration{}
	lives := map[bpf.Tuple]bool{}
	for i := range uint32(each * len(kinds)) {
		kind := kinds[i%uint32(len(kinds))]
		flow := testFlow{1000 + i, kind.forward, kind.reply}
		flow.put(t, d)
		age[flow.forwardKey()], age[flow.replyKey()] = kind.forward, kind.reply
		lives[flow.forwardKey()], lives[flow.replyKey()] = kind.lives, kind.lives
	}
	keyOf := func(r *bpf.Flow4) bpf.Tuple {
		return tupleOf(r.Saddr, r.Daddr, r.Flow.Sport, r.Flow.Dport, bpf.Zone(r.Flow.Zone))
	}
	eachRecord(t, d, func(r *bpf.Flow4) { r.Flow.LastSeen = now - uint32(age[keyOf(r)].Seconds()*float64(hz)) })

	view, err := Open(opts.PinDir)
	must(t, err)
	defer view.Close()
	for range 2 { // a census changes nothing
		census, err := view.Census(false)
		must(t, err)
		if census.Confirmed != 6*each || census.Dead != 2*each || census.Unconfirmed != 0 {
			t.Errorf("census: %+v, want %d confirmed, %d dead", census, 6*each, 2*each)
		}
	}
	census, err := d.Expire(false)
	must(t, err)
	if census.Confirmed != 6*each || census.Dead != 2*each {
		t.Errorf("census: %+v, want %d confirmed, %d dead", census, 6*each, 2*each)
	}
	found := map[bpf.Tuple]bool{}
	eachRecord(t, d, func(r *bpf.Flow4) { found[keyOf(r)] = true })
	for key, want := range lives {
		if found[key] != want {
			t.Fatalf("record seen %v ago: there is %t, want %t", age[key], found[key], want)
		}
	}
	if census, err := d.Expire(true); err != nil || census.Confirmed != 0 || census.Dead != 0 {
		t.Errorf("IPv6: %+v, %v, want an empty table", census, err)
	}
}

// SPDX-License-Identifier: Apache-2.0

package prog

import (
	"maps"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/waggle-lb/waggle/bpf"
	wmaps "github.com/waggle-lb/waggle/maps"
)

// mapsOf is a datapath's, as a maps.Provider.
type mapsOf map[string]*ebpf.Map

// Map is part of maps.Provider.
func (m mapsOf) Map(name string) *ebpf.Map { return m[name] }

// serviceStats and backendStats are what was counted by now.
func (n *node) serviceStats(id uint32) wmaps.ServiceStats {
	n.t.Helper()
	all, err := wmaps.ReadServiceStats(mapsOf(n.maps))
	if err != nil {
		n.t.Fatal(err)
	}
	return all[id]
}

func (n *node) backendStats(id uint32) wmaps.FlowStats {
	n.t.Helper()
	all, err := wmaps.ReadBackendStats(mapsOf(n.maps))
	if err != nil {
		n.t.Fatal(err)
	}
	return all[id]
}

// talk sends packets, and adds up what they are.
type talk struct {
	*conversation
	toBackend, toClient wmaps.Traffic
}

func (c *talk) says(changes ...change) {
	c.t.Helper()
	add(&c.toBackend, c.packet(c.client, c.frontend, seq(clientSeq)).with(changes...))
	c.request(changes...)
}

func (c *talk) answers(changes ...change) {
	c.t.Helper()
	c.reply(changes...)
	add(&c.toClient, c.packet(c.backend, c.source, synAck).with(changes...))
}

func add(sum *wmaps.Traffic, p packet) {
	sum.Packets++
	sum.Bytes += uint64(len(p.bytes()) - ethHeader)
}

// exchange goes on until the flow is confirmed, and beyond.
func (c *talk) exchange() {
	c.t.Helper()
	c.says()
	c.answers()
	c.says(acked)
	c.standsConfirmed()
	c.says(data)
	c.says(acked, payload(100))
	c.answers(answerData)
	c.answers(flags("A"), payload(1000))
	c.answers(flags("A"))
}

// counted: by service and backend alike.
func (c *talk) counted(want wmaps.FlowStats) {
	c.t.Helper()
	c.countedFor(c.external(), want)
}

func (c *talk) countedFor(backend uint32, want wmaps.FlowStats) {
	c.t.Helper()
	s := c.serviceStats(c.service)
	for what, got := range map[string]wmaps.FlowStats{"service": s.FlowStats, "backend": c.backendStats(backend)} {
		got.Connect, got.ConnectTime = want.Connect, want.ConnectTime // TestStatsConnect
		equal(c.t, what, want, got)
	}
	equal(c.t, "refused", uint64(0), s.Refused)
	equal(c.t, "dropped", uint64(0), s.DroppedTotal())
}

// inRecords: nothing is added up yet but for the packet that has opened the flow.
func (c *talk) inRecords() {
	c.t.Helper()
	s := c.serviceStats(c.service)
	equal(c.t, "opened", uint64(1), s.Opened)
	if s.ToBackend.Packets > 1 || s.ToClient.Packets > 0 {
		c.t.Errorf("added up already: %+v", s.FlowStats)
	}
}

// rests makes the flow's records a second old.
func (c *talk) rests() {
	c.t.Helper()
	for i := range c.halves {
		c.ageBy(second, i)
	}
}

// aged makes one record a second old. By its next packet the kernel may have to see that the neighbour is in use, which
// depends on the clock: see neighbour_due().
func (c *talk) aged(i int) {
	c.ageBy(second, i)
	const period = 5 * second
	k, now := c.keys()[i], c.jiffies()
	phase := uint32(netPort(k.src.Port())) + uint32(netPort(k.dst.Port()))
	c.idle = (now+phase)/period != (now-second+phase)/period
}

// TestStatsWalk: what was counted in records is added by a walk when the flow is silent, once, and what
// was dropped of it then is no more in the records.
func TestStatsWalk(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t), v, p)}
		c.exchange()
		c.expire(v)
		c.inRecords()
		c.rests()
		c.walk(v, 0)
		c.inRecords()
		for range 2 {
			c.expire(v)
			c.counted(wmaps.FlowStats{Opened: 1, ToBackend: c.toBackend, ToClient: c.toClient})
		}
	})
}

// TestStatsTurn: packets that go back out of the pod's own device are counted as others are, for the backend that
// clients inside are led to.
func TestStatsTurn(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		c := &talk{conversation: withItself(newNode(t), v)}
		c.exchange()
		c.rests()
		c.expire(v)
		c.countedFor(c.external()+1, wmaps.FlowStats{Opened: 1, ToBackend: c.toBackend, ToClient: c.toClient})
	})
}

// TestStatsPacket: a packet that comes a second after the last one brings what was counted before it.
func TestStatsPacket(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t), v, p)}
		c.exchange()
		before := wmaps.FlowStats{Opened: 1, ToBackend: c.toBackend}
		c.aged(0)
		c.says(acked)
		c.counted(before)
		before.ToClient = c.toClient
		c.aged(1)
		c.answers(flags("A"))
		c.counted(before)
	})
}

// TestStatsClosed: what a flow had is added up when it is closed, but for the packet that closes it.
func TestStatsClosed(t *testing.T) {
	forTCP(t, func(t *testing.T, v variant, p path) {
		for name, last := range map[string]change{"both have sent FIN": flags("FA"), "reset": flags("R")} {
			c := &talk{conversation: converse(newNode(t), v, p)}
			c.exchange()
			c.says(flags("FA"))
			before := wmaps.FlowStats{Opened: 1, ToBackend: c.toBackend, ToClient: c.toClient}
			c.answers(last)
			t.Log(name)
			c.counted(before)
			c.says(flags("A"))
			c.counted(before)
		}
	})
}

// TestStatsReleased: what a flow has when it ends is not lost.
func TestStatsReleased(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t), v, p)}
		c.exchange()
		c.age([]int{0, 1, 2}[:p.halves]...)
		c.expire(v)
		equal(t, "records", 0, c.size(v))
		c.counted(wmaps.FlowStats{Opened: 1, ToBackend: c.toBackend, ToClient: c.toClient})
	})
}

// TestStatsFlood: strangers' flows replace each other, and nothing of them is lost, neither their first packets nor
// what was counted in their records.
func TestStatsFlood(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t, oneSet), v, p)}
		const flood = 60
		for range flood {
			c.says()
			c.had(bpf.VerdictFlowOpened)
			c.says()
			c.conversation = c.again()
		}
		c.age0()
		c.expire(v)
		c.counted(wmaps.FlowStats{Opened: flood, ToBackend: c.toBackend})
	})
}

// TestStatsAbandoned: a new flow takes the place of a stranger's record, finds none for its other records, and is given
// up. What was counted in the stranger's record is not lost.
func TestStatsAbandoned(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t, oneSet), v, p)}
		c.says()
		c.says()
		keys := c.keys()
		for _, lost := range keys[1:] {
			c.remove(lost)
		}
		c.fill(v, 0)
		next := c.again()
		c.xdp(front, next.packet(next.client, next.frontend)).dropped(bpf.VerdictDropFlowsFull)
		if _, ok := c.lookup(keys[0]); ok {
			t.Error("the stranger's record is still there")
		}
		equal(t, "to the backend", c.toBackend, c.backendStats(c.external()).ToBackend)
	})
}

// age0 makes all records so old that they are released.
func (n *node) age0() {
	now := n.jiffies() - longest
	for _, t := range n.tables {
		records, places := t.contents()
		for i, r := range records {
			r.LastSeen = now
			t.write(places[i].record, r.encode())
		}
	}
}

// TestStatsActive: flows that are not over are counted by a walk with a number, and the count is void when
// a later walk is complete.
func TestStatsActive(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		active := func() [2]uint32 {
			return [2]uint32{c.serviceStats(c.service).Active, c.backendStats(c.external()).Active}
		}
		c.establish()
		c.again().request()
		c.pass(v, 7)
		equal(t, "before the pass is complete", [2]uint32{}, active())
		must(wmaps.CompletePass(mapsOf(c.maps), 7))
		equal(t, "active", [2]uint32{2, 2}, active())
		c.again().again().request()
		c.pass(v, 8)
		equal(t, "before the next is complete", [2]uint32{2, 2}, active())
		must(wmaps.CompletePass(mapsOf(c.maps), 8))
		equal(t, "active", [2]uint32{3, 3}, active())
		if v.isTCP() {
			c.reply(flags("R"))
			c.pass(v, 9)
			must(wmaps.CompletePass(mapsOf(c.maps), 9))
			equal(t, "after one was reset", [2]uint32{2, 2}, active())
		}
		c.emptyFlows()
		must(wmaps.CompletePass(mapsOf(c.maps), 10))
		equal(t, "after a walk that met none", [2]uint32{}, active())
	})
}

// pass is a walk that counts.
func (n *node) pass(v variant, number uint32) {
	n.t.Helper()
	n.runCensus(v, bpf.Census{Release: 1, Pass: number})
}

// TestStatsReused: an id that is another's by now does not get what the flows of the one before had, and an
// element that was made anew is zero.
func TestStatsReused(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t), v, p)}
		c.exchange()
		stats := wmaps.NewStats(mapsOf(c.maps))
		must(stats.AddService(c.service))
		must(stats.AddBackend(c.external(), c.service))
		c.put("backends", c.external(), bpf.Backend{
			Addr: words(c.backend.Addr()), Port: netPort(c.backend.Port() + 1), Service: c.service,
			Proto: uint8(v.proto), Flags: backendFlags(c.backend.Addr()),
		})
		c.rests()
		c.pass(v, 1)
		must(wmaps.CompletePass(mapsOf(c.maps), 1))
		c.counted(wmaps.FlowStats{})
		must(stats.DropService(c.service))
		must(stats.DropBackend(c.external()))
		c.aged(0)
		c.says(acked, payload(10))
		c.rests()
		c.expire(v)
		equal(t, "services", 0, len(c.allServiceStats()))
	})
}

func (n *node) allServiceStats() map[uint32]wmaps.ServiceStats {
	all, err := wmaps.ReadServiceStats(mapsOf(n.maps))
	must(err)
	return all
}

// TestStatsFull: so many packets are added at once, before their number reaches that of the bytes.
func TestStatsFull(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := &talk{conversation: converse(newNode(t), v, p)}
		c.exchange()
		const packets, bytes = 1<<23 - 1, 1<<39 + 5
		c.alter(c.clientKey(), func(r *record) { r.Traffic = packets<<40 | bytes })
		added := c.serviceStats(c.service).ToBackend
		c.toBackend = wmaps.Traffic{Packets: added.Packets + packets, Bytes: added.Bytes + bytes}
		c.says(acked, payload(7))
		c.counted(wmaps.FlowStats{Opened: 1, ToBackend: c.toBackend})
	})
}

// TestStatsConnect: how long a SYN waits for its SYN-ACK is counted once, in its bucket. UDP has none.
func TestStatsConnect(t *testing.T) {
	forEachPath(t, func(t *testing.T, v variant, p path) {
		c := converse(newNode(t), v, p)
		sum := func(s wmaps.FlowStats) (n uint64) {
			for _, count := range s.Connect {
				n += count
			}
			return n
		}
		c.request()
		const waited = 20 * time.Millisecond
		time.Sleep(waited)
		c.reply()
		c.reply()
		c.request(acked)
		for _, s := range []wmaps.FlowStats{c.serviceStats(c.service).FlowStats, c.backendStats(c.external())} {
			if !v.isTCP() {
				equal(t, "counted", uint64(0), sum(s))
				continue
			}
			equal(t, "counted", uint64(1), sum(s))
			if s.ConnectTime < uint64(waited.Microseconds()) {
				t.Errorf("counted as %d us, slept for %v", s.ConnectTime, waited)
			}
			for i, count := range s.Connect {
				if below := i < len(s.Connect)-1 && s.ConnectTime >= wmaps.ConnectBound(i); count > 0 && below {
					t.Errorf("%d us in the bucket that ends at %d", s.ConnectTime, wmaps.ConnectBound(i))
				}
			}
		}
	})
}

// TestStatsFailed: refusals and drops count for the service that the packet was for, once each, whatever
// XDP leaves to tc.
func TestStatsFailed(t *testing.T) {
	forEach(t, func(t *testing.T, v variant) {
		n := newNode(t)
		empty := n.serve(v, at(v.vip, 80))
		local := n.publish(service{frontend: at(v.vip2, 80), proto: v.proto, flags: bpf.ServiceExternalDrop})
		for range 3 {
			n.xdp(front, v.packet(at(v.client, clientPort), at(v.vip, 80)).with(cutShort)).passed(bpf.VerdictLeftToTC)
			r := n.ingress(front, v.packet(at(v.client, clientPort), at(v.vip, 80)).with(cutShort))
			equal(t, "verdict", bpf.VerdictName(bpf.VerdictRefused), bpf.VerdictName(r.verdict))
		}
		n.xdp(front, v.packet(at(v.client, clientPort), at(v.vip2, 80))).dropped(bpf.VerdictDropNoLocalEndpoint)
		n.ingress(front, v.packet(at(v.client, clientPort), at(v.vip2, 80))).dropped(bpf.VerdictDropNoLocalEndpoint)
		// what is for no service is no service's, though one was met before
		n.xdp(front, v.packet(at(v.client, clientPort), at(v.client2, 80)))
		n.ingress(front, v.packet(at(v.client, clientPort), at(v.client2, 80)))
		equal(t, "refused", uint64(3), n.serviceStats(empty).Refused)
		equal(t, "dropped", uint64(0), n.serviceStats(empty).DroppedTotal())
		equal(t, "refused", uint64(0), n.serviceStats(local).Refused)
		equal(t, "reasons", map[bpf.Verdict]uint64{bpf.VerdictDropNoLocalEndpoint: 2}, n.serviceStats(local).Dropped)
		equal(t, "sum", uint64(5), total(n.allServiceStats()))
	})
}

func total(all map[uint32]wmaps.ServiceStats) (n uint64) {
	for s := range maps.Values(all) {
		n += s.Refused + s.DroppedTotal()
	}
	return n
}

// TestTwoCPUsStats: two CPUs that open and carry different flows of one service lose nothing. Of a flow of
// which both have packets at the same time they lose packets, but invent none.
func TestTwoCPUsStats(t *testing.T) {
	forEachRace(t, variants[:4], racePaths, func(t *testing.T, v variant, p path) {
		r := newRace(t, v, p, roomy)
		r.serveSome(nodePort, 1)
		id := 100 + r.services
		var opened, same uint64
		r.batches(func(size int) {
			flows := r.answered(size)
			opened += uint64(size)
			r.inStep(size, each(requests(flows, acked)), each(requests(flows, data)))
			others := r.flows(3 * size)[size:] // new ones
			opened += uint64(2 * size)
			r.inStep(size, each(requests(others[:size])), each(requests(others[size:])))
			same += uint64(size)
			r.age0()
			r.expire(v)
		})
		s := r.serviceStats(id)
		equal(t, "opened", opened, s.Opened)
		equal(t, "to the client", same, s.ToClient.Packets)
		if most, least := 5*same, 4*same; s.ToBackend.Packets > most || s.ToBackend.Packets < least {
			t.Errorf("%d packets to the backend, sent were %d, of which %d at the same time as another of the flow",
				s.ToBackend.Packets, most, 2*same)
		} else {
			t.Logf("%d packets of %d are lost", most-s.ToBackend.Packets, 2*same)
		}
	})
}

// external is the backend that clients outside are led to; the next one is the same endpoint for others, see serve.
func (c *conversation) external() uint32 { return c.node.backends - 1 }

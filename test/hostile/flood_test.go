// SPDX-License-Identifier: Apache-2.0

package hostile

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

var (
	local  = service{"local", 1}  // its pod is on node-1
	remote = service{"remote", 2} // its pod is on node-2
)

// patience is how long a client waits for a node that is busy with a flood.
const patience = 30 * time.Second

// flooded is a setup under a flood, with connections that exchange little, and ever new ones.
type flooded struct {
	*setup
	laptop, inside, outside *topo.Client
	streams                 []*topo.Stream
}

// TestFlood: packets from forged sources, at the rate that the kernel can inject them, break no
// connection, make no established flow, and leave room for new clients.
func TestFlood(t *testing.T) {
	for _, xdp := range []bool{true, false} {
		name := "tc"
		if xdp {
			name = "xdp"
		}
		t.Run(name, func(t *testing.T) {
			f := newFlooded(t, xdp)
			for _, k := range kinds {
				t.Run(k.name, func(t *testing.T) { f.flood(t, k) })
			}
		})
	}
}

func newFlooded(t *testing.T, xdp bool) *flooded {
	f := &flooded{setup: newSetup(t, xdp)}
	check(t, f.node.SetGRO("eth0", true)) // without XDP, injected frames are accepted only with GRO
	for _, v := range []service{local, remote} {
		f.addService(t, v)
	}
	f.addPod(t, f.Nodes[0], "local", "local")
	f.addPod(t, f.Nodes[1], "remote", "remote")
	// Answers to forged sources go to the laptop, which drops them.
	check(t, f.node.AddRoute(strangers4, f.Laptop.IP4))
	check(t, f.node.AddRoute(strangers6, f.Laptop.IP6))
	inside, err := f.node.AddPod("inside", topo.PodOptions{})
	check(t, err)
	outside, err := f.node.AddPod("outside", topo.PodOptions{OutsideCgroup: true})
	check(t, err)
	f.laptop, f.inside, f.outside = client(t, f.Laptop), client(t, inside.Host), client(t, outside.Host)
	f.start(t, 2*portsOfService)
	f.openStreams(t)
	return f
}

// openStreams opens long-lived connections by all ways: NodePort and cluster IP, by packet and by
// socket, to pods on this node and on the other.
func (f *flooded) openStreams(t *testing.T) {
	t.Helper()
	count := 60
	if *full {
		count = 1000
	}
	for i := range count {
		v, v6 := []service{local, remote}[i%2], i/2%2 == 1
		from, to := f.laptop, f.nodePort(v, echoDigit, v6)
		switch i / 4 % 5 {
		case 0:
			from, to = f.inside, v.clusterIP(7, v6)
		case 1:
			from, to = f.outside, v.clusterIP(7, v6)
		}
		stream, reply := from.OpenTCP(topo.Request{To: to, Timeout: patience})
		if !reply.OK() {
			t.Fatalf("stream %d: %s", i, reply)
		}
		f.streams = append(f.streams, stream)
	}
}

// flood floods frontends of both families while connections exchange data and new ones are made.
func (f *flooded) flood(t *testing.T, k kind) {
	before := f.counters(t)
	trickle := topo.StartLoad(len(f.streams), time.Second, func(i int) topo.Reply { return f.streams[i].Exchange(100) })
	fresh := topo.StartLoad(4, 5*time.Millisecond, func(i int) topo.Reply {
		v := []service{local, remote}[i%2]
		return f.laptop.Get(topo.Request{To: f.nodePort(v, httpDigit, i >= 2), Timeout: patience})
	})
	sent, elapsed := f.injectFlood(t, k)
	old, connections := trickle.Stop(), fresh.Stop()
	counted := f.counters(t).Since(before)
	rate := func(packets uint64) string { return fmt.Sprintf("%.0f/s", float64(packets)/elapsed.Seconds()) }
	t.Logf("%s: %d frames injected, %s; %s arrived, %s opened flows; new connections: %s, %s; %d streams: %s", k.name, sent,
		rate(uint64(sent)), rate(f.received(counted)), rate(total(counted, bpf.VerdictFlowOpened)),
		rate(uint64(connections.OK)), connections, len(f.streams), old)
	t.Logf("%s: %v", k.name, counted)
	if old.Failed > 0 || old.OK < len(f.streams) {
		t.Errorf("connections broke: %s", old)
	}
	// A connection that is being opened may lose its unconfirmed records to the flood, and be
	// reset.
	if connections.OK == 0 || connections.Failed > 1+connections.OK/100 {
		t.Errorf("new connections: %s", connections)
	}
	// A datagram acknowledges nothing: if a source was drawn twice, that counts as an exchange.
	if n := f.strangersIn(t); n > 0 && !(k.udp && n <= sent/10_000) {
		t.Errorf("%d records of strangers among those of established flows", n)
	}
}

// received returns how many packets the first hook on the node's device has seen.
func (f *flooded) received(c cluster.Counters) (sum uint64) {
	hook := "tc-ingress/"
	if f.xdp {
		hook = "xdp/"
	}
	for name, packets := range c {
		if strings.HasPrefix(name, hook) && !strings.HasPrefix(name, hook+"flow") { // those count events
			sum += packets
		}
	}
	return sum
}

// injectFlood sends the flood, to all frontends of the kind in turn.
func (f *flooded) injectFlood(t *testing.T, k kind) (sent int, elapsed time.Duration) {
	t.Helper()
	frames, atLeast := uint32(5_000), time.Duration(0)
	if *full {
		frames, atLeast = 50_000, 15*time.Second
	}
	from, err := f.Laptop.MAC("eth0")
	check(t, err)
	to, err := f.node.MAC("eth0")
	check(t, err)
	var injectors []*topo.Injector
	for _, v := range []service{local, remote} {
		for _, v6 := range bothFamilies {
			in, err := f.Link.Injector(f.node.BridgePort(), forged(t, k, from, to, f.nodePort(v, httpDigit, v6)))
			check(t, err)
			defer in.Close()
			injectors = append(injectors, in)
		}
	}
	started := time.Now()
	for sent == 0 || time.Since(started) < atLeast {
		for _, in := range injectors {
			check(t, in.Send(frames))
			sent += int(frames)
		}
	}
	return sent, time.Since(started)
}

// strangersIn counts the established flows with forged sources.
func (s *setup) strangersIn(t *testing.T) (count int) {
	t.Helper()
	p, err := loader.Open(s.agent.PinDir)
	check(t, err)
	defer p.Close()
	for _, family := range maps.Families {
		check(t, maps.Flows(p, family, func(f maps.Flow) bool {
			if f.Confirmed() && (strange(f.Key) || strange(f.To)) {
				count++
			}
			return true
		}))
	}
	return count
}

func strange(t maps.Tuple) bool {
	for _, a := range []netip.Addr{t.Src.Addr(), t.Dst.Addr()} {
		if strangers4.Contains(a) || strangers6.Contains(a) {
			return true
		}
	}
	return false
}

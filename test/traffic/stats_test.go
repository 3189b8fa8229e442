// SPDX-License-Identifier: Apache-2.0

package traffic

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/waggle-lb/waggle/bpf"
	"github.com/waggle-lb/waggle/loader"
	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/await"
	"github.com/waggle-lb/waggle/test/cluster"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestStats: packets and bytes by service are what the client's own kernel counts, by each way, for each protocol and
// family. They go on when the agent starts anew; a service that comes later begins at zero.
func TestStats(t *testing.T) {
	for _, m := range modes {
		t.Run(m.name, func(t *testing.T) {
			s, c, services := twoServices(t, m)
			for _, svc := range services {
				for _, v6 := range bothFamilies {
					for _, p := range []port{dns, echo} {
						t.Run(fmt.Sprintf("%s/%s/%s", svc.name, familyName(v6), p.name), func(t *testing.T) { s.exactly(t, c, svc, p, v6) })
					}
				}
			}
			t.Run("sockets", func(t *testing.T) { s.socketsCounted(t, c, services[1]) })
			t.Run("restart", func(t *testing.T) { s.countsGoOn(t, services[1]) })
		})
	}
}

// exactly compares what was counted for one port with what the laptop's netfilter has.
func (s *setup) exactly(t *testing.T, c *clients, svc service, p port, v6 bool) {
	t.Helper()
	to := svc.nodePort(addrOf(s.Nodes[0].Host, v6), p)
	oracle := newOracle(t, s.Laptop, to, p == dns)
	before := s.stats(t, svc, p, v6)
	open := c.laptop.OpenTCP
	if p == dns {
		open = c.laptop.OpenUDP
	}
	stream, reply := open(topo.Request{To: to})
	check(t, reply.Error())
	const rounds = 40
	for i := range rounds {
		check(t, stream.Exchange(100+i).Error())
	}
	check(t, stream.Close().Error())
	await.Until(t, func() (string, bool) {
		s.walk(t, v6)
		now := s.stats(t, svc, p, v6)
		got := [2]maps.Traffic{minus(now.ToBackend, before.ToBackend), minus(now.ToClient, before.ToClient)}
		want := oracle.read(t)
		return fmt.Sprintf("counted %+v, the client's kernel %+v", got, want),
			got == want && want[0].Packets >= rounds && want[1].Packets >= rounds && now.Opened == before.Opened+1
	})
	connects := uint64(0)
	for i, n := range s.stats(t, svc, p, v6).Connect {
		connects += n - before.Connect[i]
	}
	if want := map[bool]uint64{true: 0, false: 1}[p == dns]; connects != want {
		t.Errorf("%d times from SYN to SYN-ACK, want %d", connects, want)
	}
}

func minus(a, b maps.Traffic) maps.Traffic {
	return maps.Traffic{Packets: a.Packets - b.Packets, Bytes: a.Bytes - b.Bytes}
}

// oracle is a pair of counters in a host's netfilter.
type oracle struct {
	host         *topo.Host
	family, name string
}

func newOracle(t *testing.T, h *topo.Host, to netip.AddrPort, udp bool) oracle {
	t.Helper()
	o := oracle{h, "ip", "waggle-test"}
	if to.Addr().Is6() {
		o.family = "ip6"
	}
	proto := "tcp"
	if udp {
		proto = "udp"
	}
	rules := fmt.Sprintf(`table %[1]s %[2]s {
		counter sent {}
		counter got {}
		chain out { type filter hook output priority 0; %[1]s daddr %[3]s %[4]s dport %[5]d counter name sent; }
		chain in { type filter hook prerouting priority -300; %[1]s saddr %[3]s %[4]s sport %[5]d counter name got; }
	}`, o.family, o.name, to.Addr(), proto, to.Port())
	nft := h.Command("nft", "-f", "-")
	nft.Stdin = strings.NewReader(rules)
	if out, err := nft.CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
	}
	t.Cleanup(func() { check(t, h.Command("nft", "delete", "table", o.family, o.name).Run()) })
	return o
}

// read returns what was sent and what was received.
func (o oracle) read(t *testing.T) (got [2]maps.Traffic) {
	t.Helper()
	out, err := o.host.Command("nft", "-j", "list", "counters", "table", o.family, o.name).Output()
	check(t, err)
	var all struct {
		Nftables []struct {
			Counter *struct {
				Name           string
				Packets, Bytes uint64
			}
		}
	}
	check(t, json.Unmarshal(out, &all))
	for _, x := range all.Nftables {
		if x.Counter == nil {
			continue
		}
		i := 0
		if x.Counter.Name == "got" {
			i = 1
		}
		got[i] = maps.Traffic{Packets: x.Counter.Packets, Bytes: x.Counter.Bytes}
	}
	return got
}

// walk has the datapath of node-1 add up what is silent.
func (s *setup) walk(t *testing.T, v6 bool) {
	t.Helper()
	name := "waggle_expire4"
	if v6 {
		name = "waggle_expire6"
	}
	program, err := ebpf.LoadPinnedProgram(filepath.Join(s.agents[0].PinDir, "programs", name), nil)
	check(t, err)
	defer program.Close()
	if _, err := program.Run(&ebpf.RunOptions{Context: bpf.Census{Release: 1}}); err != nil && !errors.Is(err, unix.EBUSY) {
		t.Fatal(err)
	}
}

// stats is what node-1 has counted for a port of a service.
func (s *setup) stats(t *testing.T, svc service, p port, v6 bool) maps.ServiceStats {
	t.Helper()
	return statsOf(t, s.agents[0], svc, p, v6)
}

func statsOf(t *testing.T, a *cluster.Agent, svc service, p port, v6 bool) maps.ServiceStats {
	t.Helper()
	view, err := loader.Open(a.PinDir)
	check(t, err)
	defer view.Close()
	all, err := maps.ReadServiceStats(view)
	check(t, err)
	names, err := maps.NewNames(view).All()
	check(t, err)
	family := maps.IPv4
	if v6 {
		family = maps.IPv6
	}
	for id, n := range names {
		if n.Name == svc.name && n.Port == p.name && n.Family == family {
			if _, there := all[id]; !there {
				t.Errorf("nothing is counted for %s", n)
			}
			return all[id]
		}
	}
	t.Fatalf("there is no service %s:%s", svc.name, p.name)
	return maps.ServiceStats{}
}

// socketsCounted: a process of the node, whose sockets are connected by the hooks, counts as flows that were opened.
func (s *setup) socketsCounted(t *testing.T, c *clients, svc service) {
	t.Helper()
	host := client(t, s.Nodes[0].Host)
	for _, v6 := range bothFamilies {
		before := s.stats(t, svc, http, v6)
		for range 5 {
			check(t, host.Get(topo.Request{To: svc.clusterIP(http, v6)}).Error())
		}
		after := s.stats(t, svc, http, v6)
		if n := after.Opened - before.Opened; n != 5 {
			t.Errorf("%s: 5 connections of sockets are counted as %d", familyName(v6), n)
		}
	}
}

// countsGoOn: an agent that starts goes on where the one before was, and what is new begins at zero.
func (s *setup) countsGoOn(t *testing.T, svc service) {
	t.Helper()
	before := s.stats(t, svc, dns, false)
	if before.ToBackend.Bytes == 0 {
		t.Fatal("nothing was counted before")
	}
	s.agents[0].Kill()
	added := service{name: "added", number: 3}
	s.addService(t, added)
	check(t, s.agents[0].Start())
	s.awaitServices(t, 3*portsOfService)
	if after := s.stats(t, svc, dns, false); after.Opened != before.Opened || after.ToBackend != before.ToBackend {
		t.Errorf("before %+v, after the restart %+v", before, after)
	}
	for _, v6 := range bothFamilies {
		got := s.stats(t, added, dns, v6)
		if got.Opened != 0 || got.ToBackend.Packets != 0 || got.Refused != 0 {
			t.Errorf("a new service begins with %+v", got)
		}
	}
}

// TestTop: the busiest service, its endpoint and its client are shown, with what they carry.
func TestTop(t *testing.T) {
	s, c, services := twoServices(t, modes[1])
	stream, reply := c.laptop.OpenUDP(topo.Request{To: services[1].nodePort(s.Nodes[0].IP4, dns)})
	check(t, reply.Error())
	stop, stopped := make(chan struct{}), make(chan error)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := stream.Exchange(1000).Error(); err != nil {
				stopped <- err
				return
			}
		}
	}()
	for what, want := range map[string]string{"services": "remote", "backends": "10.244.1.2:5353", "clients": s.Laptop.IP4.String()} {
		await.Until(t, func() (string, bool) {
			out, err := s.agents[0].CLI("top", what, "--once", "--interval", "2s", "-n", "1")
			check(t, err)
			lines := strings.Split(strings.TrimSpace(out), "\n")
			return out, len(lines) == 2 && strings.Contains(lines[1], want)
		})
	}
	out, err := s.agents[0].CLI("top", "--once", "-o", "json", "--sort", "packets")
	check(t, err)
	var rows []struct {
		Service, Port string
		Rates         struct{ PacketsToBackend, PacketsToClient, BytesToBackend float64 }
	}
	check(t, json.Unmarshal([]byte(out), &rows))
	if len(rows) != 2*portsOfService || rows[0].Service != "remote" || rows[0].Port != "dns" || rows[0].Rates.PacketsToClient <= 0 ||
		math.Round(rows[0].Rates.BytesToBackend/rows[0].Rates.PacketsToBackend) != 1028 {
		t.Errorf("as objects: %+v", rows)
	}
	close(stop)
	check(t, <-stopped)
	for _, args := range [][]string{{"top", "--interval", "10ms"}, {"top", "-n", "-1"}, {"top", "--sort", "colour"}, {"top", "pods"}} {
		if out, err := s.agents[0].CLI(args...); err == nil {
			t.Errorf("%v: no error: %s", args, out)
		}
	}
}

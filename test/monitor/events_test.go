// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/maps"
	"github.com/waggle-lb/waggle/test/topo"
)

// TestEvents: each kind of event is shown once, with what it is about.
func TestEvents(t *testing.T) {
	s := newSetup(t)
	nodePort := func(port uint16) netip.AddrPort { return at(s.node.IP4, port) }
	remote, local := at(s.remote.IP4, 8080), at(s.local.IP4, 8080)
	t.Run("flow", func(t *testing.T) {
		m := s.watch(t)
		reply := s.echo(t, nodePort(30001))
		s.settled(t, 1)
		events, _ := m.end()
		opened, confirmed, closed := one(t, events, "flow-opened"), one(t, events, "flow-confirmed"), one(t, events, "flow-closed")
		want := event{
			Event: "flow-opened", Hook: "xdp", Device: "eth0", Protocol: "TCP", Service: "default/remote", Port: "main", Path: "express", Choice: "random",
			Source: reply.Local, Destination: nodePort(30001), ToSource: reply.Remote, ToDestination: remote, Backend: remote,
			SourceTranslated: true, TCPFlags: "syn",
		}
		want.Length = opened.Length
		expect(t, opened, want)
		if confirmed.Source != reply.Local || confirmed.Service != "default/remote" || confirmed.Hook != "xdp" {
			t.Errorf("confirmed: %+v", confirmed)
		}
		if closed.Service != "default/remote" || closed.Reset {
			t.Errorf("closed: %+v", closed)
		}
		if len(events) != 3 {
			t.Errorf("events: %s", kinds(events))
		}
	})
	t.Run("reset", func(t *testing.T) {
		m := s.watch(t)
		check(t, s.laptop.Echo(topo.Request{To: nodePort(30002), Size: 100, Reset: true}).Error())
		s.settled(t, 2)
		events, _ := m.end()
		opened, closed := one(t, events, "flow-opened"), one(t, events, "flow-closed")
		if opened.Path != "stack" || opened.SourceTranslated || opened.Backend != local || opened.ToDestination != local {
			t.Errorf("opened: %+v", opened)
		}
		if !closed.Reset {
			t.Errorf("closed: %+v", closed)
		}
	})
	t.Run("affinity", func(t *testing.T) {
		m := s.watch(t, "--verdict", "flow-opened")
		s.echo(t, nodePort(30007))
		s.echo(t, nodePort(30007))
		events, _ := m.end()
		if len(events) != 2 || events[0].Choice != "random" || events[1].Choice != "affinity" {
			t.Errorf("events: %+v", events)
		}
	})
	t.Run("ipv6", func(t *testing.T) {
		m := s.watch(t, "--verdict", "flow-opened")
		reply := s.echo(t, at(s.node.IP6, 30001))
		events, _ := m.end()
		opened := one(t, events, "flow-opened")
		if opened.Source != reply.Local || opened.Backend != at(s.remote.IP6, 8080) || opened.ToSource != reply.Remote {
			t.Errorf("opened: %+v, of %s", opened, reply)
		}
	})
	for _, c := range []struct {
		name, event, service string
		port                 uint16
		backend              netip.AddrPort
	}{
		{"refused", "refused", "default/empty", 30004, netip.AddrPort{}},
		{"no-local-endpoint", "drop-no-local-endpoint", "default/elsewhere", 30005, netip.AddrPort{}},
		{"no-route", "drop-no-route", "default/lost", 30008, netip.MustParseAddrPort("10.66.0.1:8080")},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := s.watch(t)
			s.unanswered(t, nodePort(c.port), c.event)
			events, _ := m.end()
			if len(of(events, c.event)) == 0 {
				t.Fatalf("events: %s", kinds(events))
			}
			e := of(events, c.event)[0]
			if e.Service != c.service || e.Destination != nodePort(c.port) || e.Backend != c.backend || e.TCPFlags != "syn" {
				t.Errorf("%+v", e)
			}
		})
	}
	t.Run("sockets", func(t *testing.T) { socketEvents(t, s) })
	t.Run("announced", func(t *testing.T) { announcedEvents(t, s) })
}

// announcedEvents: questions for the MAC of an address are shown with who asks.
func announcedEvents(t *testing.T, s *setup) {
	table, done, err := s.agent.Announced()
	check(t, err)
	defer done()
	eth0, err := s.node.Link("eth0")
	check(t, err)
	check(t, table.Extend(maps.Monotonic()+time.Hour))
	for protocol, c := range map[string]struct {
		announced, client netip.Addr
		length            int
	}{
		"ARP": {netip.MustParseAddr("192.168.1.240"), s.Laptop.IP4, 42},
		"NDP": {netip.MustParseAddr("fd00:192:168:1::240"), s.Laptop.IP6, 86},
	} {
		check(t, table.Set(maps.Place{Addr: c.announced, Ifindex: eth0.Attrs().Index}, eth0.Attrs().HardwareAddr))
		m := s.watch(t, "--packets", "--verdict", "announced", "--client", c.client.String())
		s.unanswered(t, at(c.announced, 9), "announced")
		events, _ := m.end()
		got := of(events, "announced")
		if len(got) == 0 {
			t.Fatalf("events: %s", kinds(events))
		}
		want := event{Event: "announced", Hook: "xdp", Device: "eth0", Protocol: protocol, Source: at(c.client, 0), Destination: at(c.announced, 0), Length: c.length}
		want.Before, want.After = got[0].Before, got[0].After
		expect(t, got[0], want)
		if len(want.Before) != c.length || len(want.After) != c.length || bytes.Equal(want.Before, want.After) {
			t.Errorf("% x became % x", want.Before, want.After)
		}
	}
}

// socketEvents: calls of processes name the process, and what becomes of the call.
func socketEvents(t *testing.T, s *setup) {
	client, err := s.node.Client()
	check(t, err)
	defer client.Close()
	web, empty, names := netip.MustParseAddrPort("10.96.0.1:80"), netip.MustParseAddrPort("10.96.0.4:80"), netip.MustParseAddrPort("10.96.0.12:80")
	m := s.watch(t)
	check(t, client.Echo(topo.Request{To: web, Size: 10}).Error())
	client.Connect(topo.Request{To: empty})
	check(t, client.UDPUnconnected(topo.Request{To: names, Size: 100}).Error())
	events, _ := m.end()
	remote := at(s.remote.IP4, 8080)
	for _, want := range []event{
		{Event: "sock-connect", Service: "default/remote", Destination: web, ToDestination: remote, Backend: remote, Choice: "random", Protocol: "TCP"},
		{Event: "refused", Service: "default/empty", Destination: empty, Protocol: "TCP"},
		{Event: "sock-sendmsg", Service: "default/names", Destination: names, ToDestination: remote, Backend: remote, Protocol: "UDP"},
	} {
		got := one(t, events, want.Event)
		if got.PID != client.Pid() || got.Command == "" || got.Hook != "sock" || got.Port != "main" {
			t.Errorf("%+v is not of the process %d", got, client.Pid())
		}
		want.PID, want.Command, want.Hook, want.Port, want.Source = got.PID, got.Command, got.Hook, got.Port, got.Source
		expect(t, got, want)
	}
}

// TestFilters: each filter lets through what it names, and no more. All is sent while eight monitors watch, four at a time.
func TestFilters(t *testing.T) {
	s := newSetup(t)
	other, err := s.Nodes[1].Client() // another client than the laptop
	check(t, err)
	defer other.Close()
	send := func() {
		s.echo(t, at(s.node.IP4, 30001))
		s.echo(t, at(s.node.IP4, 30002))
		s.echo(t, at(s.node.IP6, 30002))
		s.laptop.Connect(topo.Request{To: at(s.node.IP4, 30004)})
		s.unanswered(t, at(s.node.IP4, 30005), "drop-no-local-endpoint")
		check(t, other.Echo(topo.Request{To: at(s.node.IP4, 30002), Size: 10}).Error())
	}
	only := func(pass func(event) bool) func(*testing.T, []event) {
		return func(t *testing.T, events []event) {
			if len(events) == 0 {
				t.Error("no events")
			}
			for _, e := range events {
				if !pass(e) {
					t.Errorf("%+v", e)
				}
			}
		}
	}
	filters := []struct {
		args []string
		pass func(event) bool
	}{
		{[]string{"--service", "default/local"}, func(e event) bool { return e.Service == "default/local" }},
		{[]string{"--service", "empty"}, func(e event) bool { return e.Service == "default/empty" && e.Event == "refused" }},
		{[]string{"--backend", s.remote.IP4.String()}, func(e event) bool { return e.Backend == at(s.remote.IP4, 8080) }},
		{[]string{"--backend", at(s.local.IP6, 8080).String()}, func(e event) bool { return e.Backend == at(s.local.IP6, 8080) || e.Path == "stack reply" }},
		{[]string{"--client", s.Nodes[1].IP4.String()}, func(e event) bool { return e.Source.Addr() == s.Nodes[1].IP4 || e.Destination.Addr() == s.Nodes[1].IP4 }},
		{[]string{"--client", s.Laptop.IP6.String() + "/64"}, func(e event) bool { return e.Source.Addr().Is6() }},
		{[]string{"--verdict", "flow-confirmed,refused"}, func(e event) bool { return e.Event == "flow-confirmed" || e.Event == "refused" }},
		{[]string{"--drops"}, func(e event) bool { return e.Event == "drop-no-local-endpoint" }},
	}
	for _, four := range [][2]int{{0, 4}, {4, 8}} {
		var monitors []*monitor
		for _, f := range filters[four[0]:four[1]] {
			monitors = append(monitors, s.watch(t, f.args...))
		}
		send()
		for i, m := range monitors {
			events, _ := m.end()
			f := filters[four[0]+i]
			t.Run(f.args[0]+" "+f.args[1%len(f.args)], func(t *testing.T) { only(f.pass)(t, events) })
		}
	}
	if slots, word := s.slots(t), s.word(t); len(slots) > 0 || word != 0 {
		t.Errorf("after all monitors: the slots %v, the word %#x", slots, word)
	}
}

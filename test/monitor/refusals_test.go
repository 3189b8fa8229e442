// SPDX-License-Identifier: Apache-2.0

package monitor

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/test/await"
)

// TestRefusals: each mistake gives one line that names it, and the status 1.
func TestRefusals(t *testing.T) {
	s := newSetup(t)
	for _, c := range []struct {
		args string
		want []string
	}{
		{"--service nothing", []string{"--service nothing", "default/nothing is not in the datapath"}},
		{"--service a/b/c", []string{"--service a/b/c"}},
		{"--backend 10.9.9.9", []string{"--backend 10.9.9.9", "no backend"}},
		{"--backend web-1", []string{"--backend web-1", "want an address"}},
		{"--client here", []string{"--client here", "network"}},
		{"--verdict dropped", []string{"--verdict dropped", "drop-no-route", "flow-opened"}},
		{"--verdict vlan", []string{"--verdict vlan", "only counts it"}},
		{"--pcap /nowhere/file", []string{"--pcap", "/nowhere/file"}},
		{"--duration -1s", []string{"--duration -1s"}},
		{"--rate -1", []string{"--rate"}},
		{"-o xml", []string{"-o xml"}},
		{"--pin-dir " + s.agent.PinDir + "-nowhere", []string{s.agent.PinDir + "-nowhere", "has an agent run"}},
	} {
		args := append([]string{"monitor"}, strings.Fields(c.args)...)
		if !strings.Contains(c.args, "--pin-dir") {
			args = append(args, "--pin-dir", s.agent.PinDir)
		}
		result, err := s.agent.Run(args...)
		check(t, err)
		line := result.Refusal()
		if line == "" {
			t.Errorf("waggle %s: %s, want one line and the status 1", strings.Join(args, " "), result)
		}
		for _, w := range c.want {
			if !strings.Contains(line, w) {
				t.Errorf("waggle %s: %q, which doesn't say %q", strings.Join(args, " "), line, w)
			}
		}
	}
	t.Run("unprivileged", func(t *testing.T) {
		result, err := s.agent.RunAs(65534, "monitor")
		check(t, err)
		if !strings.Contains(result.Refusal(), "root") {
			t.Errorf("as nobody: %s", result)
		}
	})
	t.Run("too many", func(t *testing.T) {
		var monitors []*monitor
		for range 4 {
			monitors = append(monitors, s.watch(t))
		}
		result, err := s.agent.Run("monitor", "--pin-dir", s.agent.PinDir)
		check(t, err)
		if !strings.Contains(result.Refusal(), "4 monitors run already") {
			t.Errorf("the fifth: %s", result)
		}
		for _, m := range monitors {
			m.end()
		}
	})
	t.Run("older datapath", func(t *testing.T) {
		check(t, s.agent.Stop())
		for _, name := range []string{"watching", "watch_slots", "watchers", "watched", "watch_meters"} {
			check(t, os.Remove(filepath.Join(s.agent.PinDir, "maps", name)))
		}
		result, err := s.agent.Run("monitor", "--pin-dir", s.agent.PinDir)
		check(t, err)
		if !strings.Contains(result.Refusal(), "another version of waggle") {
			t.Errorf("without the maps: %s", result)
		}
		check(t, s.agent.Start()) // which makes them
		m := s.watch(t)
		s.echo(t, at(s.node.IP4, 30001))
		if events, _ := m.end(); len(of(events, "flow-opened")) != 1 {
			t.Errorf("events: %s", kinds(events))
		}
	})
}

// TestEnds: a count and a time end a monitor, with the status 0, and rows are for people.
func TestEnds(t *testing.T) {
	s := newSetup(t)
	m := s.watch(t, "--count", "2")
	s.echo(t, at(s.node.IP4, 30001))
	if events, _ := m.wait(); len(events) != 2 {
		t.Errorf("%d events, want 2", len(events))
	}
	result, err := s.agent.Run("monitor", "--duration", "100ms", "--pin-dir", s.agent.PinDir)
	check(t, err)
	if result.Status != 0 || !strings.HasPrefix(result.Stdout, "TIME") || result.Stderr != "waggle: 0 events shown; lost: nothing\n" {
		t.Errorf("%s", result)
	}
	rows := s.agent.Command("monitor", "--count", "1")
	var out strings.Builder
	rows.Stdout = &out
	check(t, rows.Start())
	await.Until(t, func() (string, bool) { return "no monitor", s.word(t) != 0 })
	reply := s.echo(t, at(s.node.IP4, 30001))
	check(t, rows.Wait())
	for _, w := range []string{"flow-opened", "xdp", "eth0", reply.Local.String(), "default/remote:main", "10.244.1.2:8080", "express, chosen by chance, source " + reply.Remote.String()} {
		if !strings.Contains(out.String(), w) {
			t.Errorf("%q is not in\n%s", w, out.String())
		}
	}
}

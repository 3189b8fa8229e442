// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/waggle-lb/waggle/control/status"
	"github.com/waggle-lb/waggle/loader"
)

func someStatus(pinDir string) *status.Status {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	return &status.Status{
		PID: 7, Version: "v1", Node: "node-a", PinDir: pinDir, Source: "manifests in /etc/waggle",
		Started: at, Written: at.Add(time.Minute),
		Proxy: status.Proxy{Synced: true, LastSync: at, Services: 3, Failures: []string{"service default/a: full"}},
		Devices: []status.Device{
			{Name: "eth0", Ifindex: 2, Role: status.RoleExternal, XDP: "native", TC: "attached", Express: true, Addr4: "10.0.0.1", Addr6: "fd00::1"},
			{Name: "pod0", Ifindex: 3, Role: status.RolePod, XDP: "not for this role", TC: "attached"},
		},
		Links: []status.Link{
			{Hook: "xdp", Kind: "xdp-native", Device: "eth0", Ifindex: 2, Program: "waggle_xdp", ProgramID: 5, LinkID: 6, Attached: true},
			{Hook: "connect4", Kind: "cgroup", Cgroup: "/sys/fs/cgroup", Program: "waggle_connect4", ProgramID: 8, LinkID: 9},
		},
		Flows:    status.FlowCensus{IPv4: status.FamilyCensus{Confirmed: 1}, IPv6: status.FamilyCensus{Unconfirmed: 2}, Expired: 3},
		Problems: []status.Problem{{File: "a.yaml", Document: 2, Object: "Service default/a", Field: "spec.ports", Message: "is\nwrong"}},
		Held:     []string{"default/b", "default/c"},
		Warnings: []string{"links: gone"},
		Notices:  []string{"device eth0, xdp: a neighbour"},
	}
}

// TestNamesLine: where names are answered, and by whom.
func TestNamesLine(t *testing.T) {
	for want, n := range map[string]*status.Names{
		"": nil,
		"of cluster.local, answered at 10.96.0.10, fd00::a; 7 queries, 3 passed on to 192.0.2.1, 192.0.2.2; answers: NOERROR 4,NXDOMAIN 3": {
			Domain: "cluster.local", Addresses: []string{"10.96.0.10", "fd00::a"}, Resolvers: []string{"192.0.2.1", "192.0.2.2"},
			Queries: map[string]uint64{"udp": 5, "tcp": 2}, Answers: map[string]uint64{"NXDOMAIN": 3, "NOERROR": 4}, Forwarded: 3,
		},
		"of lab, not answered (see Problems); 0 queries, 0 passed on to no resolver; answers: <none>": {Domain: "lab"},
	} {
		if got := namesLine(n); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

const statusText = `
Agent:    NOT RUNNING (last seen 2026-01-02T03:05:05Z); the datapath keeps running
Version:  v1
Node:     node-a
Source:   manifests in /etc/waggle
Pins:     PINS
Synced:   3 service ports, last sync 2026-01-02T03:04:05Z
Flows:    IPv4 1 confirmed, 0 unconfirmed; IPv6 0 confirmed, 2 unconfirmed records; 3 expired

Devices
DEVICE   ROLE       TC         XDP                 EXPRESS   SNAT ADDRESSES
eth0     external   attached   native              true      10.0.0.1,fd00::1
pod0     pod        attached   not for this role   false     <none>

Programs
HOOK       AT               KIND         PROGRAM                  ATTACHED
xdp        eth0             xdp-native   waggle_xdp (id 5)        true
connect4   /sys/fs/cgroup   cgroup       waggle_connect4 (id 8)   false

Packets
No packets yet.

Problems
WHERE                 OBJECT              FIELD        MESSAGE
a.yaml (document 2)   Service default/a   spec.ports   is wrong
agent                                                  service default/a: full
agent                                                  links: gone

Notices
MESSAGE
device eth0, xdp: a neighbour`

// wideStatusText is statusText with what -o wide adds.
func wideStatusText() string {
	text := statusText + "\n\nHeld\nSERVICE\ndefault/b\ndefault/c"
	for line, more := range map[string]string{
		"SNAT ADDRESSES": "     IFINDEX", "10.0.0.1,fd00::1": "   2", "not for this role   false     <none>": "             3",
		"ATTACHED": "   LINK ID", "(id 5)        true": "       6", "(id 8)   false": "      9",
	} {
		text = strings.Replace(text, line+"\n", line+more+"\n", 1)
	}
	return text
}

// release needs an agent, and something that is held.
func TestReleaseRefused(t *testing.T) {
	l := load(t)
	dir := t.TempDir()
	_, err := run(t, "release", "--run-dir", dir)
	if err == nil || !strings.HasPrefix(err.Error(), "no agent has run here yet") {
		t.Errorf("without a status: error %v", err)
	}
	s := someStatus(l.pinDir)
	s.Held = nil
	l.writeStatus(dir, s)
	l.expect("release --run-dir "+dir, "Nothing is held.")
	l.must(l.dp.Close()) // the agent ends
	_, err = run(t, "release", "--run-dir", dir)
	if want := "the agent does not run: start it first"; err == nil || err.Error() != want {
		t.Errorf("without an agent: error %v, want %s", err, want)
	}
}

func (l *loaded) writeStatus(dir string, s *status.Status) {
	l.t.Helper()
	raw, err := json.Marshal(s)
	l.must(err)
	file := filepath.Join(dir, "status.json")
	l.must(os.WriteFile(file, raw, 0o644))
	l.must(os.Chtimes(file, s.Written, s.Written))
}

func TestStatus(t *testing.T) {
	l := load(t)
	l.must(l.dp.Close()) // the agent ends
	dir := t.TempDir()
	l.writeStatus(dir, someStatus(l.pinDir))
	l.expect("status --run-dir "+dir, strings.ReplaceAll(statusText, "PINS", l.pinDir))
	l.expect("status -o wide --run-dir "+dir, strings.ReplaceAll(wideStatusText(), "PINS", l.pinDir))
	var view map[string]any
	l.must(json.Unmarshal([]byte(l.run("status -o json --run-dir "+dir)), &view))
	if view["running"] != false || view["agent"] == nil || view["counters"] == nil {
		t.Errorf("got %v", view)
	}
	link := view["agent"].(map[string]any)["links"].([]any)[0].(map[string]any)
	for key, want := range map[string]any{"hook": "xdp", "kind": "xdp-native", "device": "eth0", "program": "waggle_xdp", "attached": true} {
		if link[key] != want {
			t.Errorf("link's %s: got %v, want %v", key, link[key], want)
		}
	}
}

func TestStatusOfRunningAgent(t *testing.T) {
	l := load(t)
	dir := t.TempDir()
	s := someStatus(l.pinDir)
	s.Proxy = status.Proxy{}
	l.writeStatus(dir, s)
	out := l.run("status --run-dir " + dir)
	for _, want := range []string{"running (pid 7, since 2026-01-02T03:04:05Z)", "not yet: the datapath still works with its earlier contents"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}

func TestNotLoaded(t *testing.T) {
	const pinDir = "--pin-dir=/sys/fs/bpf/waggle-no-such"
	for _, command := range []string{"service list", "service get x", "backend list", "flow list"} {
		if _, err := run(t, append(strings.Fields(command), pinDir)...); !errors.Is(err, loader.ErrNotLoaded) {
			t.Errorf("%s: got error %v", command, err)
		}
	}
	_, err := run(t, "status", pinDir, "--run-dir", t.TempDir())
	if err == nil || !strings.HasPrefix(err.Error(), "no agent has run here yet") {
		t.Errorf("status: got error %v", err)
	}
}

func TestStatusOfBlindAgent(t *testing.T) {
	l := load(t)
	dir := t.TempDir()
	s := someStatus(l.pinDir)
	s.Blind = &status.Blindness{Since: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Why: "API server: no answer"}
	l.writeStatus(dir, s)
	if out, want := l.run("status --run-dir "+dir), "manifests in /etc/waggle; BLIND since 2026-01-02T03:04:05Z: API server: no answer"; !strings.Contains(out, want) {
		t.Errorf("%q is not in\n%s", want, out)
	}
}

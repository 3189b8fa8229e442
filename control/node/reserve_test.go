// SPDX-License-Identifier: Apache-2.0

package node

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/waggle-lb/waggle/control/netns/netnstest"
	"github.com/waggle-lb/waggle/control/rundir"
	"github.com/waggle-lb/waggle/control/status"
)

func TestParsePortRange(t *testing.T) {
	for s, want := range map[string]PortRange{"1-65535": {1, 65535}, "80-80": {80, 80}, "30000-32767": {30000, 32767}} {
		if got, err := ParsePortRange(s); err != nil || got != want || got.String() != s {
			t.Errorf("%s: got %v, error %v", s, got, err)
		}
	}
	for _, s := range []string{"", "80", "-", "80-", "-80", "0-80", "90-80", "1-65536", "a-b", "1-2-3", " 1-2", "+1-2", "1..2"} {
		if _, err := ParsePortRange(s); err == nil || !strings.HasPrefix(err.Error(), `"`+s+`" is not a range of ports`) {
			t.Errorf("%q: got error %v", s, err)
		}
	}
}

func TestPortsRoundTrip(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "1": "1", "65535": "65535", "1,2": "1-2", "1-65535": "1-65535",
		"8080,9148,100-200": "100-200,8080,9148", "10-20,15-30,31": "10-31",
	} {
		ports, err := parsePorts(in)
		must(t, err)
		if got := ports.String(); got != want {
			t.Errorf("%q came back as %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"x", "1,", "5-1", "1 2"} {
		if _, err := parsePorts(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

// ports is the parameter of a network namespace, and a run directory.
type ports struct {
	t   *testing.T
	run string
}

func newPorts(t *testing.T) ports {
	netnstest.New(t)
	return ports{t, filepath.Join(t.TempDir(), "run")}
}

func (p ports) set(reserved string) {
	p.t.Helper()
	must(p.t, os.WriteFile("/proc/sys/"+reservedPorts, []byte(reserved+"\n"), 0))
}

func (p ports) expect(what, want string) {
	p.t.Helper()
	raw, err := os.ReadFile("/proc/sys/" + reservedPorts)
	must(p.t, err)
	if got := strings.TrimSpace(string(raw)); got != want {
		p.t.Errorf("%s: reserved are %q, want %q", what, got, want)
	}
}

// reserve calls ReservePorts twice, as two agents do, one after the other.
func (p ports) reserve(ports PortRange) {
	p.t.Helper()
	for range 2 {
		must(p.t, ReservePorts("/proc/sys", p.run, ports))
	}
}

func (p ports) release(want string) {
	p.t.Helper()
	for _, want := range []string{want, ""} {
		if got, err := ReleasePorts("/proc/sys", p.run); err != nil || got != want {
			p.t.Errorf("given back: %q (%v), want %q", got, err, want)
		}
	}
}

// What others have reserved stays, in this network namespace and in no other.
func TestReservePorts(t *testing.T) {
	p := newPorts(t)
	for _, c := range []struct{ before, reserved, released string }{
		{"", "49152-65535", "49152-65535"},
		{"8080,9000-9010", "8080,9000-9010,49152-65535", "49152-65535"},
		{"49000-50000", "49000-65535", "50001-65535"},
		{"49152-65535", "49152-65535", ""},
		{"1-65535", "1-65535", ""},
	} {
		p.set(c.before)
		p.reserve(PortRange{49152, 65535})
		p.expect("of "+c.before, c.reserved)
		p.release(c.released)
		p.expect("after "+c.before, c.before)
	}
}

// TestReserveOtherPorts: after agents with any sequence of --snat-ports, the administrator's ports
// are reserved and no others.
func TestReserveOtherPorts(t *testing.T) {
	p := newPorts(t)
	p.set("9000-10100,30000")
	p.reserve(PortRange{10000, 29999})
	p.expect("the first agent", "9000-30000")
	p.reserve(PortRange{49152, 65535})
	p.expect("the second", "9000-10100,30000,49152-65535")
	p.reserve(PortRange{20000, 50000})
	p.expect("the third", "9000-10100,20000-50000")
	p.release("20000-29999,30001-50000")
	p.expect("the end", "9000-10100,30000")
}

// The administrator changes the list while an agent runs: with the agent's ports, or without them.
func TestReservedByAdministrator(t *testing.T) {
	p := newPorts(t)
	p.reserve(PortRange{10000, 29999})
	p.set("8080,10000-29999")
	p.release("10000-29999")
	p.expect("one more", "8080")

	p.reserve(PortRange{10000, 29999})
	p.set("12000-12010")
	p.release("")
	p.expect("replaced", "12000-12010")

	p.reserve(PortRange{10000, 29999})
	p.set("12000-12010")
	p.reserve(PortRange{10000, 29999})
	p.expect("reserved again", "10000-29999")
	p.release("10000-11999,12011-29999")
	p.expect("in the end", "12000-12010")
}

// An agent is killed between its record and the kernel's list, before or after the list.
func TestReservationIsKilled(t *testing.T) {
	p := newPorts(t)
	for _, list := range []string{"9000,10000-29999", "9000,15000-20000", "9000,15000-40000"} {
		p.set(list)
		must(t, (&reservation{Ports: "10000-40000", Pending: true}).write(p.run))
		p.reserve(PortRange{49152, 65535})
		p.expect(list, "9000,49152-65535")
		p.release("49152-65535")
		p.expect("after "+list, "9000")
	}
}

// What an agent of a release without records has reserved is the agent's. A record of another boot,
// and an unreadable record, count as none.
func TestReservationsOfOthers(t *testing.T) {
	p := newPorts(t)
	must(t, status.NewWriter(p.run).Write(&status.Status{}))
	p.set("9000,10000-29999")
	p.reserve(PortRange{10000, 29999})
	p.release("10000-29999")
	p.expect("an earlier release", "9000")

	record := rundir.ReservedPortsFile(p.run)
	for _, contents := range []string{`{"boot":"another","ports":"9000-9001"}`, `{"boot"`, ``} {
		must(t, os.WriteFile(record, []byte(contents), 0o644))
		p.set("9000-9001")
		if got, err := ReleasePorts("/proc/sys", p.run); err != nil || got != "" {
			t.Errorf("%s: given back %q (%v)", contents, got, err)
		}
		p.expect(contents, "9000-9001")
	}
}

func TestReserveErrors(t *testing.T) {
	p := newPorts(t)
	if err := ReservePorts(filepath.Join(t.TempDir(), "none"), p.run, PortRange{1, 2}); err == nil || !strings.Contains(err.Error(), reservedPorts) {
		t.Errorf("no such parameter: %v", err)
	}
	sys := t.TempDir()
	must(t, os.MkdirAll(filepath.Dir(filepath.Join(sys, reservedPorts)), 0o755))
	must(t, os.WriteFile(filepath.Join(sys, reservedPorts), []byte("what\n"), 0o644))
	if err := ReservePorts(sys, p.run, PortRange{1, 2}); err == nil || !strings.Contains(err.Error(), `"what-what" is not a range`) {
		t.Errorf("a list that can't be read: %v", err)
	}
}

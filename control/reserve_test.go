// SPDX-License-Identifier: Apache-2.0

package control

import (
	"os"
	"strings"
	"testing"
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

func TestRangesRoundTrip(t *testing.T) {
	for in, want := range map[string]string{
		"": "", "1": "1", "65535": "65535", "1,2": "1-2", "1-65535": "1-65535",
		"8080,9148,100-200": "100-200,8080,9148", "10-20,15-30,31": "10-31",
	} {
		ports, err := parseRanges(in)
		must(t, err)
		if got := formatRanges(ports); got != want {
			t.Errorf("%q came back as %q, want %q", in, got, want)
		}
	}
	for _, in := range []string{"x", "1,", "5-1", "1 2"} {
		if _, err := parseRanges(in); err == nil {
			t.Errorf("%q: no error", in)
		}
	}
}

// What others have reserved stays, in this network namespace and in no other.
func TestReservePorts(t *testing.T) {
	newNetns(t)
	ports := PortRange{49152, 65535}
	read := func() string {
		raw, err := os.ReadFile("/proc/sys/" + reservedPorts)
		must(t, err)
		return strings.TrimSpace(string(raw))
	}
	for _, c := range []struct{ before, reserved, after string }{
		{"", "49152-65535", ""},
		{"8080,9000-9010", "8080,9000-9010,49152-65535", "8080,9000-9010"},
		{"49000-50000", "49000-65535", "49000-49151"},
	} {
		must(t, os.WriteFile("/proc/sys/"+reservedPorts, []byte(c.before+"\n"), 0))
		must(t, ReservePorts("/proc/sys", ports))
		must(t, ReservePorts("/proc/sys", ports)) // again, as the next agent does
		if got := read(); got != c.reserved {
			t.Errorf("%q: reserved %q, want %q", c.before, got, c.reserved)
		}
		must(t, ReleasePorts("/proc/sys", ports))
		must(t, ReleasePorts("/proc/sys", ports))
		if got := read(); got != c.after {
			t.Errorf("%q: released %q, want %q", c.before, got, c.after)
		}
	}
}

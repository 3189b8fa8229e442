// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// reservedPorts lists the ports that the kernel keeps out of its ephemeral range, of this
// network namespace (Documentation/networking/ip-sysctl.rst).
const reservedPorts = "net/ipv4/ip_local_reserved_ports"

// PortRange is an inclusive range of ports.
type PortRange struct {
	Min, Max uint16
}

// Overlaps tells whether two ranges have a port in common.
func (r PortRange) Overlaps(other PortRange) bool { return r.Min <= other.Max && other.Min <= r.Max }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Min, r.Max) }

// ParsePortRange reads "min-max".
func ParsePortRange(s string) (PortRange, error) {
	low, high, ok := strings.Cut(s, "-")
	lo, err1 := strconv.ParseUint(low, 10, 16)
	hi, err2 := strconv.ParseUint(high, 10, 16)
	if !ok || err1 != nil || err2 != nil || lo == 0 || lo > hi {
		return PortRange{}, fmt.Errorf("%q is not a range of ports such as 30000-32767", s)
	}
	return PortRange{uint16(lo), uint16(hi)}, nil
}

// ReservePorts takes the range that SNAT uses out of the kernel's ephemeral ports, so that no
// socket of the node's own meets a translated flow on the same port. sysctlDir is /proc/sys, or
// where that can be written: containers have it read-only.
func ReservePorts(sysctlDir string, r PortRange) error { return changeReserved(sysctlDir, r, true) }

// ReleasePorts undoes ReservePorts.
func ReleasePorts(sysctlDir string, r PortRange) error { return changeReserved(sysctlDir, r, false) }

func changeReserved(sysctlDir string, r PortRange, reserved bool) error {
	file := filepath.Join(sysctlDir, reservedPorts)
	raw, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("reserving the ports %s: %w", r, err)
	}
	before := strings.TrimSpace(string(raw))
	ranges, err := parseRanges(before)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	after := formatRanges(markRange(ranges, r, reserved))
	if after == before {
		return nil
	}
	if err := os.WriteFile(file, []byte(after+"\n"), 0o644); err != nil {
		return fmt.Errorf("reserving the ports %s: %w", r, err)
	}
	return nil
}

func parseRanges(s string) (*[65536]bool, error) {
	var ports [65536]bool
	if s == "" {
		return &ports, nil
	}
	for _, part := range strings.Split(s, ",") {
		if !strings.Contains(part, "-") {
			part += "-" + part
		}
		r, err := ParsePortRange(part)
		if err != nil {
			return nil, err
		}
		markRange(&ports, r, true)
	}
	return &ports, nil
}

func markRange(ports *[65536]bool, r PortRange, reserved bool) *[65536]bool {
	for p := int(r.Min); p <= int(r.Max); p++ {
		ports[p] = reserved
	}
	return ports
}

func formatRanges(ports *[65536]bool) string {
	var parts []string
	for p := 0; p < len(ports); p++ {
		if !ports[p] {
			continue
		}
		first := p
		for p+1 < len(ports) && ports[p+1] {
			p++
		}
		part := strconv.Itoa(first)
		if p > first {
			part += "-" + strconv.Itoa(p)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}

// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"strconv"
	"strings"
)

// PortRange is a range of ports, both ends included.
type PortRange struct {
	Min, Max uint16
}

// Overlaps reports whether two ranges have a port in common.
func (r PortRange) Overlaps(other PortRange) bool { return r.Min <= other.Max && other.Min <= r.Max }

// Holds reports whether a port is in the range.
func (r PortRange) Holds(port uint16) bool { return r.Min <= port && port <= r.Max }

func (r PortRange) String() string { return fmt.Sprintf("%d-%d", r.Min, r.Max) }

// ParsePortRange parses "min-max".
func ParsePortRange(s string) (PortRange, error) {
	low, high, ok := strings.Cut(s, "-")
	lo, err1 := strconv.ParseUint(low, 10, 16)
	hi, err2 := strconv.ParseUint(high, 10, 16)
	if !ok || err1 != nil || err2 != nil || lo == 0 || lo > hi {
		return PortRange{}, fmt.Errorf("%q is not a range of ports such as 30000-32767", s)
	}
	return PortRange{uint16(lo), uint16(hi)}, nil
}

// portSet is any set of ports.
type portSet [1 << 16]bool

func portsOf(ranges ...PortRange) *portSet {
	var p portSet
	for _, r := range ranges {
		for port := int(r.Min); port <= int(r.Max); port++ {
			p[port] = true
		}
	}
	return &p
}

// parsePorts parses ports and ranges, separated by commas, in the kernel's form.
func parsePorts(s string) (*portSet, error) {
	var ranges []PortRange
	if s == "" {
		return portsOf(), nil
	}
	for _, part := range strings.Split(s, ",") {
		if !strings.Contains(part, "-") {
			part += "-" + part
		}
		r, err := ParsePortRange(part)
		if err != nil {
			return nil, err
		}
		ranges = append(ranges, r)
	}
	return portsOf(ranges...), nil
}

// String returns the form that parsePorts reads.
func (p *portSet) String() string {
	var parts []string
	for port := 0; port < len(p); port++ {
		if !p[port] {
			continue
		}
		first := port
		for port+1 < len(p) && p[port+1] {
			port++
		}
		part := strconv.Itoa(first)
		if port > first {
			part += "-" + strconv.Itoa(port)
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, ",")
}

// combine makes a set of the ports for which choose returns true. Its arguments say whether each of
// the two sets has the port.
func (p *portSet) combine(other *portSet, choose func(mine, others bool) bool) *portSet {
	var out portSet
	for port := range out {
		out[port] = choose(p[port], other[port])
	}
	return &out
}

func (p *portSet) with(other *portSet) *portSet {
	return p.combine(other, func(mine, others bool) bool { return mine || others })
}

func (p *portSet) without(other *portSet) *portSet {
	return p.combine(other, func(mine, others bool) bool { return mine && !others })
}

func (p *portSet) common(other *portSet) *portSet {
	return p.combine(other, func(mine, others bool) bool { return mine && others })
}

func (p *portSet) holds(other *portSet) bool { return *other.without(p) == portSet{} }

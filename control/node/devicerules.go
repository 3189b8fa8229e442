// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"path"
	"strings"

	"github.com/vishvananda/netlink"

	"github.com/waggle-lb/waggle/loader/netdump"
)

// DeviceRules decide the roles of devices by name. The patterns are those of path.Match.
type DeviceRules struct {
	External []string // empty: the devices that lead out of the node, see deviceFacts
	Pods     []string // empty: the devices that lead to a pod
	Ignore   []string // exceptions from all others
}

// namedDevices are the patterns of one flag.
type namedDevices struct {
	flag     string
	patterns []string
}

// lists returns the flags' patterns in the order in which they decide.
func (r DeviceRules) lists() []namedDevices {
	return []namedDevices{{"ignore-devices", r.Ignore}, {"devices", r.External}, {"pod-devices", r.Pods}}
}

// Validate checks the patterns, and that no two flags name the same device.
func (r DeviceRules) Validate() error {
	lists := r.lists()
	for _, l := range lists {
		for _, p := range l.patterns {
			if _, err := path.Match(p, ""); err != nil {
				return fmt.Errorf("--%s: bad pattern %q", l.flag, p)
			}
		}
	}
	for i, first := range lists {
		for _, second := range lists[i+1:] {
			for _, a := range first.patterns {
				for _, b := range second.patterns {
					// --ignore-devices may name some of the devices that a wildcard of another flag
					// names.
					if contains(a, b) || i > 0 && contains(b, a) {
						return fmt.Errorf("--%s %s and --%s %s: both name the same devices", first.flag, a, second.flag, b)
					}
				}
			}
		}
	}
	return nil
}

// contains reports whether a pattern matches all names that another one matches, as far as this can
// be decided.
func contains(pattern, other string) bool {
	if pattern == other {
		return true
	}
	ok, _ := path.Match(pattern, other)
	return ok && !strings.ContainsAny(other, `*?[\`)
}

// CheckDevices returns an error for a device of the node that two flags give different roles.
func (r DeviceRules) CheckDevices() error {
	if len(r.External) == 0 || len(r.Pods) == 0 {
		return nil
	}
	links, err := netdump.Whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("listing devices: %w", err)
	}
	for _, link := range links {
		if err := r.conflict(link.Attrs().Name); err != nil {
			return err
		}
	}
	return nil
}

// conflict returns an error that names the flags, if they give a device different roles.
func (r DeviceRules) conflict(name string) error {
	external, isExternal := match(r.External, name)
	pods, isPod := match(r.Pods, name)
	if !isExternal || !isPod || r.Ignores(name) {
		return nil
	}
	return fmt.Errorf("--devices %s and --pod-devices %s: both name the device %s", external, pods, name)
}

// unmatched lists a problem for each pattern that matches no device.
func (r DeviceRules) unmatched(names []string) (problems []string) {
	for _, l := range r.lists() {
		for _, p := range l.patterns {
			if !namesAny(p, names) {
				problems = append(problems, fmt.Sprintf("--%s %s: there is no such device", l.flag, p))
			}
		}
	}
	return problems
}

func namesAny(pattern string, names []string) bool {
	for _, name := range names {
		if matches([]string{pattern}, name) {
			return true
		}
	}
	return false
}

// Ignores reports whether the rules exclude a device.
func (r DeviceRules) Ignores(name string) bool { return matches(r.Ignore, name) }

// match returns the first pattern that matches a device.
func match(patterns []string, name string) (string, bool) {
	for _, p := range patterns {
		if ok, _ := path.Match(p, name); ok {
			return p, true
		}
	}
	return "", false
}

func matches(patterns []string, name string) bool {
	_, ok := match(patterns, name)
	return ok
}

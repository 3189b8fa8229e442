// SPDX-License-Identifier: Apache-2.0

package node

import (
	"fmt"
	"slices"
)

// withoutRole is the problem of a device that has no role although it carries packets.
func withoutRole(f *deviceFacts, why string) []string {
	if why == "" || !f.carriesPackets() {
		return nil
	}
	return []string{fmt.Sprintf("device %s has no role, so services don't answer there: %s (--devices, --pod-devices, --ignore-devices)",
		f.link.Attrs().Name, why)}
}

// problems lists where the rules don't fit the node's devices.
func (r DeviceRules) problems(facts *nodeFacts) (problems []string) {
	var names []string
	for _, f := range facts.devices {
		name := f.link.Attrs().Name
		names = append(names, name)
		if err := r.conflict(name); err != nil {
			problems = append(problems, err.Error())
		}
	}
	if facts.untold {
		problems = append(problems, "net.ipv4.nexthop_compat_mode is 0, so the kernel does not report the devices of routes with nexthop objects: "+
			"set it to 1, or name the devices (--devices)")
	}
	return append(problems, r.unmatched(names)...)
}

// report keeps the problems for the status, and logs the new ones.
func (d *Devices) report(problems []string) {
	for _, p := range problems {
		if !slices.Contains(d.problems, p) {
			d.log.Warn(p)
		}
	}
	d.problems = problems
}

// Problems lists what is wrong with devices. Errors of Sync are not among them.
func (d *Devices) Problems() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.problems)
}

// IsRouted reports whether routes led elsewhere by a device at the last Sync.
func (d *Devices) IsRouted(ifindex int) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.routed[ifindex]
}

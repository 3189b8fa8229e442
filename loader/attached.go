// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Attached is a program at one of the hooks that waggle uses. It may be any program's, not only
// waggle's.
type Attached struct {
	At      string // a device, or a cgroup's directory
	Hook    string // "xdp", "tc-ingress", "tc-egress", "connect4", ...
	Kind    string // "tcx", "clsact", "cgroup"; for XDP the mode, as in LinkStatus
	Program string // the kernel's name, at most 15 bytes; empty if the caller may not ask for it
	ID      ebpf.ProgramID
}

// AttachedPrograms lists them for all devices of this network namespace and, if cgroup is not empty, for
// a cgroup with all cgroups above it, in the order in which they run. The list leaves out what can't be
// read; the error names it.
func AttachedPrograms(cgroup string) ([]Attached, error) {
	devices, err := allDevices()
	if err != nil {
		return nil, err
	}
	var all []Attached
	var errs []error
	for _, dev := range devices {
		on, err := attachedTo(dev)
		all, errs = append(all, on...), append(errs, err)
	}
	if cgroup != "" {
		in, err := attachedToCgroup(cgroup)
		all, errs = append(all, in...), append(errs, err)
	}
	for i := range all {
		all[i].Program = nameOf(all[i].ID)
	}
	return all, errors.Join(errs...)
}

var xdpModes = map[uint32]string{
	nl.XDP_ATTACHED_DRV: "native", nl.XDP_ATTACHED_SKB: "generic", nl.XDP_ATTACHED_HW: "offloaded",
}

func attachedTo(dev netlink.Link) (all []Attached, err error) {
	name := dev.Attrs().Name
	if xdp := dev.Attrs().Xdp; xdp != nil && xdp.Attached {
		all = append(all, Attached{At: name, Hook: "xdp", Kind: xdpModes[xdp.AttachMode], ID: ebpf.ProgramID(xdp.ProgId)})
	}
	for _, h := range []hook{hookTCXIngress, hookTCXEgress} {
		result, err := link.QueryPrograms(link.QueryOptions{Target: dev.Attrs().Index, Attach: h.attach})
		if err != nil {
			continue // the kernel has no TCX
		}
		what, kind := h.describe()
		for _, id := range idsOf(result) {
			all = append(all, Attached{At: name, Hook: what, Kind: kind, ID: id})
		}
	}
	filters, err := clsactFilters(dev)
	if err != nil {
		return all, explain(dev, "tc", err)
	}
	for _, filter := range filters {
		if bpf, ok := filter.(*netlink.BpfFilter); ok {
			all = append(all, Attached{At: name, Hook: filterParents[bpf.Parent], Kind: "clsact", ID: ebpf.ProgramID(bpf.Id)})
		}
	}
	return all, nil
}

func attachedToCgroup(path string) (all []Attached, err error) {
	dir, _, err := openCgroup(path)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	for _, h := range cgroupHooks {
		result, err := link.QueryPrograms(link.QueryOptions{
			Target: int(dir.Fd()), Attach: h.attach, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE,
		})
		if err != nil {
			return all, fmt.Errorf("cgroup %s: %s: %w", path, h.name, err) // the other hooks would fail in the same way
		}
		for _, id := range idsOf(result) {
			all = append(all, Attached{At: path, Hook: h.name, Kind: "cgroup", ID: id})
		}
	}
	return all, nil
}

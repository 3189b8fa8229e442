// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
)

// target is what the kernel reports a link is attached to. Both members are 0 once that is gone.
type target struct {
	link    link.ID
	program ebpf.ProgramID
	ifindex int
	cgroup  uint64
}

func inspect(l link.Link) (target, error) {
	info, err := l.Info()
	if err != nil {
		return target{}, fmt.Errorf("inspect a link: %w", err)
	}
	t := target{link: info.ID, program: info.Program}
	if xdp := info.XDP(); xdp != nil {
		t.ifindex = int(xdp.Ifindex)
	}
	if tcx := info.TCX(); tcx != nil {
		t.ifindex = int(tcx.Ifindex)
	}
	if cgroup := info.Cgroup(); cgroup != nil {
		t.cgroup = cgroup.CgroupId
	}
	return t, nil
}

// attachedTo asks the device whether it runs the link's program. The link itself is no proof: its
// index may be that of a device in another network namespace.
func (t target) attachedTo(h hook, dev netlink.Link) bool {
	if h == hookXDP {
		xdp := dev.Attrs().Xdp
		return xdp != nil && xdp.Attached && ebpf.ProgramID(xdp.ProgId) == t.program
	}
	return t.queried(dev.Attrs().Index, h.attach)
}

func (t target) queried(at int, attach ebpf.AttachType) bool {
	result, err := link.QueryPrograms(link.QueryOptions{Target: at, Attach: attach})
	return err == nil && t.isAmong(result)
}

func (t target) isAmong(result *link.QueryResult) bool {
	return slices.ContainsFunc(result.Programs, func(p link.AttachedProgram) bool {
		id, known := p.LinkID()
		return p.ID == t.program && (!known || id == t.link)
	})
}
